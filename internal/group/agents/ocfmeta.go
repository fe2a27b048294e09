package agents

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

const (
	// maxMetadata is how long the description of an agent may be.
	maxMetadata = 1 << 20
	// maxParameters of an agent: config.MaxAttributes, without OCF_CHECK_LEVEL.
	maxParameters = 255
	// maxSentence is how long the description of an attribute gets, and twice that for a type.
	maxSentence = 300
)

// ocfMetadata is what an agent prints when it is asked for meta-data.
type ocfMetadata struct {
	XMLName    xml.Name       `xml:"resource-agent"`
	Name       string         `xml:"name,attr"`
	Version    string         `xml:"version"`
	Long       []ocfText      `xml:"longdesc"`
	Short      []ocfText      `xml:"shortdesc"`
	Parameters []ocfParameter `xml:"parameters>parameter"`
	Actions    []ocfAction    `xml:"actions>action"`
}

type ocfText struct {
	Lang string `xml:"lang,attr"`
	Text string `xml:",chardata"`
}

type ocfParameter struct {
	Name        string    `xml:"name,attr"`
	Required    string    `xml:"required,attr"`
	Unique      string    `xml:"unique,attr"`
	UniqueGroup string    `xml:"unique-group,attr"`
	Reloadable  string    `xml:"reloadable,attr"`
	Long        []ocfText `xml:"longdesc"`
	Short       []ocfText `xml:"shortdesc"`
	Deprecated  *struct{} `xml:"deprecated"`
	Content     struct {
		Type    string  `xml:"type,attr"`
		Default *string `xml:"default,attr"`
		Options []struct {
			Value string `xml:"value,attr"`
		} `xml:"option"`
	} `xml:"content"`
}

type ocfAction struct {
	Name     string `xml:"name,attr"`
	Timeout  string `xml:"timeout,attr"`
	Interval string `xml:"interval,attr"`
	Depth    string `xml:"depth,attr"`
	Role     string `xml:"role,attr"`
}

// parseOCF reads the description of an agent.
func parseOCF(b []byte) (*ocfMetadata, error) {
	if len(b) > maxMetadata {
		return nil, fmt.Errorf("its meta-data is longer than %d KiB", maxMetadata>>10)
	}
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return nil, errors.New("it printed no meta-data")
	}
	if b[0] != '<' {
		line, _, _ := bytes.Cut(b, []byte("\n"))
		return nil, fmt.Errorf("it printed something else than meta-data: %q", printable(line[:min(len(line), 200)]))
	}
	d := xml.NewDecoder(bytes.NewReader(b))
	d.CharsetReader = func(charset string, in io.Reader) (io.Reader, error) {
		switch strings.ToLower(charset) {
		case "us-ascii", "ascii":
			return in, nil
		case "iso-8859-1", "latin1":
			return latin1(in)
		}
		return nil, fmt.Errorf("its encoding %q is not known here", charset)
	}
	var m ocfMetadata
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("its meta-data is not well-formed: %w", err)
	}
	if n := len(m.Parameters); n > maxParameters {
		return nil, fmt.Errorf("it has %d parameters, more than %d", n, maxParameters)
	}
	return &m, nil
}

func latin1(in io.Reader) (io.Reader, error) {
	b, err := io.ReadAll(in)
	if err != nil {
		return nil, err
	}
	var out strings.Builder
	for _, c := range b {
		out.WriteRune(rune(c))
	}
	return strings.NewReader(out.String()), nil
}

var (
	ocfTypeName      = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)
	ocfParameterName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,62}$`)
)

// resourceType makes a type of the description. Notes are what a person should know about it.
func (m *ocfMetadata) resourceType(provider, program string) (t *v1.ResourceType, notes []string) {
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	t = &v1.ResourceType{
		Name:        "ocf-" + program,
		Operations:  v1.Operations_OPERATIONS_ON_OFF,
		Description: describe(2*maxSentence, m.Short, m.Long),
		Agent:       &v1.ResourceType_Ocf{Ocf: &v1.OcfAgent{Provider: provider, Agent: program}},
		Limits:      &v1.Limits{},
	}
	if provider != "heartbeat" {
		t.Name = "ocf-" + provider + "-" + program
	}
	if !ocfTypeName.MatchString(t.Name) {
		t.Name = "ocf-agent"
		note("its name can't be the name of a type: give it another one")
	}
	// Actions first: they say what attributes can be told.
	reload := m.actions(t, note)
	together := m.together()
	for _, p := range m.Parameters {
		switch {
		case !ocfParameterName.MatchString(p.Name):
			note("parameter %q is left out: it can't be the name of an attribute", p.Name)
			continue
		case slices.ContainsFunc(t.Attributes, func(a *v1.Attribute) bool { return a.Name == p.Name }):
			note("parameter %s is declared twice; the first counts", p.Name)
			continue
		case p.Name == ocfCheckLevel:
			continue
		}
		a := p.attribute()
		if others := together[p.Name]; len(others) == 1 {
			a.Unique = true
		}
		switch reload {
		case "reload-agent":
			a.Registered = truth(p.Reloadable)
		case "reload":
			a.Registered = !truth(p.Unique)
		}
		t.Attributes = append(t.Attributes, a)
	}
	for _, group := range uniqueGroups(together) {
		note("no two resources may have the same values of %s together; that is not checked", strings.Join(group, ", "))
	}
	m.deep(t)
	return t, notes
}

// together are the parameters whose values must be unique, by name, with those that are meant together.
func (m *ocfMetadata) together() map[string][]string {
	groups := map[string][]string{}
	for _, p := range m.Parameters {
		switch {
		case p.UniqueGroup != "":
			groups["group "+p.UniqueGroup] = append(groups["group "+p.UniqueGroup], p.Name)
		case truth(p.Unique):
			groups["1.0"] = append(groups["1.0"], p.Name)
		}
	}
	out := map[string][]string{}
	for _, names := range groups {
		slices.Sort(names)
		names = slices.Compact(names)
		for _, n := range names {
			out[n] = names
		}
	}
	return out
}

// uniqueGroups are those of more than one parameter, each once.
func uniqueGroups(together map[string][]string) (out [][]string) {
	for _, name := range sortedKeys(together) {
		if names := together[name]; len(names) > 1 && names[0] == name {
			out = append(out, names)
		}
	}
	return out
}

// attribute of a parameter. Its default stays with the agent, which uses it for what is not given: the one that it prints
// may depend on the resource.
func (p *ocfParameter) attribute() *v1.Attribute {
	a := &v1.Attribute{Name: p.Name, Kind: v1.AttributeKind_ATTRIBUTE_KIND_STRING, Description: describe(maxSentence, p.Short, p.Long)}
	byDefault := ""
	if p.Content.Default != nil {
		byDefault = strings.TrimSpace(*p.Content.Default)
	}
	a.Required = truth(p.Required) && byDefault == ""
	switch strings.ToLower(p.Content.Type) {
	case "integer":
		if _, err := strconv.ParseInt(byDefault, 10, 64); err == nil || byDefault == "" {
			a.Kind = v1.AttributeKind_ATTRIBUTE_KIND_INTEGER
		}
	case "select":
		for _, o := range p.Content.Options {
			if o.Value != "" && !slices.Contains(a.Words, o.Value) {
				a.Words = append(a.Words, o.Value)
			}
		}
	}
	var more []string
	if p.Deprecated != nil {
		more = append(more, "Deprecated.")
	}
	if strings.EqualFold(p.Content.Type, "boolean") {
		more = append(more, "A boolean.")
	}
	if byDefault != "" {
		more = append(more, "By default "+shorten(byDefault, 100)+".")
	}
	a.Description = strings.TrimSpace(strings.Join(append([]string{a.Description}, more...), " "))
	return a
}

// actions become limits and actions of the type. The result is the action that tells changed attributes; empty: none.
func (m *ocfMetadata) actions(t *v1.ResourceType, note func(string, ...any)) (reload string) {
	has := map[string]bool{}
	plain := false
	var start, stop, monitor, interval, check, told time.Duration
	for _, a := range m.Actions {
		timeout := ocfTime(a.Timeout)
		has[a.Name] = true
		switch a.Name {
		case "start":
			start = max(start, timeout)
		case "stop":
			stop = max(stop, timeout)
		case "monitor":
			monitor = max(monitor, timeout)
			role := strings.ToLower(a.Role)
			if role != "" && role != "started" && role != "stopped" {
				continue
			}
			plain = true
			if depth, err := strconv.Atoi(a.Depth); a.Depth == "" || err == nil && depth == 0 {
				if i := ocfTime(a.Interval); i > 0 && interval == 0 {
					interval = i
				}
			}
		case "validate-all":
			check = max(check, timeout)
		case "reload", "reload-agent":
			told = max(told, timeout)
		}
	}
	span := func(d, least time.Duration) *durationpb.Duration {
		if d == 0 {
			return nil
		}
		return durationpb.New(min(max(d, least), 24*time.Hour))
	}
	const moment = time.Second
	l := t.Limits
	l.OnlineTimeout, l.OfflineTimeout, l.MonitorTimeout = span(start, moment), span(stop, moment), span(monitor, moment)
	l.MonitorInterval = span(interval, moment)
	l.ActionTimeout, l.AttrChangedTimeout = span(check, moment), span(told, moment)
	if stop > 0 {
		// Clean may stop it twice.
		l.CleanTimeout = span(2*stop+10*time.Second, moment)
	}
	for _, required := range []string{"start", "stop", "monitor"} {
		if !has[required] {
			note("it does not say that it has the action %s, which is called all the same", required)
		}
	}
	for _, action := range []string{"validate-all", "reload-agent", "reload"} {
		if has[action] {
			t.SupportedActions = append(t.SupportedActions, action)
		}
	}
	switch {
	case has["promote"] && !plain:
		note("it runs promoted and demoted only, which Holdfast does not do: it can't be used")
	case has["promote"]:
		note("it can be promoted; Holdfast uses it in its plain mode only and never promotes it")
	}
	switch {
	case has["reload-agent"]:
		return "reload-agent"
	case has["reload"]:
		return "reload"
	}
	return ""
}

// promotable says whether the agent can be promoted, and whether it is of use without that.
func (m *ocfMetadata) promotable() (promotable, plain bool) {
	for _, a := range m.Actions {
		role := strings.ToLower(a.Role)
		promotable = promotable || a.Name == "promote"
		plain = plain || a.Name == "monitor" && (role == "" || role == "started" || role == "stopped")
	}
	return promotable, plain
}

// deep declares the attribute that says how deep a deep monitor looks, if the agent has several depths.
func (m *ocfMetadata) deep(t *v1.ResourceType) {
	var depths []int
	for _, a := range m.Actions {
		if d, err := strconv.Atoi(a.Depth); err == nil && a.Name == "monitor" && d > 0 && d <= 1000 && !slices.Contains(depths, d) {
			depths = append(depths, d)
		}
	}
	if len(depths) == 0 {
		return
	}
	slices.Sort(depths)
	var words []string
	for _, d := range depths {
		words = append(words, strconv.Itoa(d))
	}
	t.Attributes = append(t.Attributes, &v1.Attribute{
		Name: ocfCheckLevel, Kind: v1.AttributeKind_ATTRIBUTE_KIND_INTEGER, Words: words, Default: words[0],
		Description: "How deep a monitor looks when levelTwoMonitorFreq makes it a deep one.",
	})
}

func truth(s string) bool {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "1", "true", "yes", "on":
		return true
	}
	return false
}

// ocfTime reads 20, 20s, 2min, 500ms; 0 if it can't be read.
func ocfTime(s string) time.Duration {
	s = strings.ToLower(strings.TrimSpace(s))
	i := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	unit := "s"
	if i >= 0 {
		s, unit = s[:i], strings.TrimSpace(s[i:])
	}
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		return 0
	}
	switch unit {
	case "s", "sec":
		return time.Duration(n) * time.Second
	case "ms", "msec":
		return time.Duration(n) * time.Millisecond
	case "us", "usec":
		return time.Duration(n) * time.Microsecond
	case "m", "min":
		return time.Duration(n) * time.Minute
	case "h", "hr":
		return time.Duration(n) * time.Hour
	}
	return 0
}

// describe makes one paragraph of what an agent says, in English if it says that.
func describe(most int, texts ...[]ocfText) string {
	var parts []string
	for _, all := range texts {
		said := ""
		for _, t := range all {
			if said == "" || strings.HasPrefix(strings.ToLower(t.Lang), "en") {
				said = t.Text
			}
		}
		said = strings.Join(strings.Fields(strings.ToValidUTF8(said, "?")), " ")
		said = strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return -1
			}
			return r
		}, said)
		if said != "" && !strings.HasSuffix(said, ".") {
			said += "."
		}
		if said != "" && !slices.Contains(parts, said) {
			parts = append(parts, said)
		}
	}
	return shorten(strings.Join(parts, " "), most)
}

// shorten cuts at a word.
func shorten(s string, most int) string {
	if len(s) <= most {
		return s
	}
	s = s[:most]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	if i := strings.LastIndexByte(s, ' '); i > most/2 {
		s = s[:i]
	}
	return s + " …"
}
