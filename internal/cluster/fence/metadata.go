//go:build linux

package fence

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// Metadata is how an agent describes itself.
type Metadata struct {
	Name       string
	Parameters map[string]Parameter
	// Actions that it has, sorted.
	Actions []string
}

// Parameter of an agent.
type Parameter struct {
	Required    bool
	Default     string
	Deprecated  bool
	Description string
}

// Has says whether an agent has an action. Of an agent that did not describe
// itself this is not known: it has those that all have.
func (m *Metadata) Has(action string) bool {
	if m == nil {
		return slices.Contains([]string{"off", "on", "reboot", "status", "metadata"}, action)
	}
	return slices.Contains(m.Actions, action)
}

func (m *Metadata) has(parameter string) bool {
	if m == nil {
		return false
	}
	_, ok := m.Parameters[parameter]
	return ok
}

// plugNames are the parameters that name the machine: one, or none, or where
// nothing is known both.
func (m *Metadata) plugNames() []string {
	switch {
	case m == nil:
		return []string{"plug", "port"}
	case m.has("plug"):
		return []string{"plug"}
	case m.has("port"):
		return []string{"port"}
	}
	return nil
}

// secretFrom says that a parameter NAME_file is ours: the first line of that file
// goes to the agent as NAME.
func (m *Metadata) secretFrom(key string) (string, bool) {
	name, ok := strings.CutSuffix(key, "_file")
	if !ok || !isSecret(name) || m.has(key) {
		return "", false
	}
	if name == "passwd" && !m.has(name) && m.has("password") {
		name = "password"
	}
	return name, true
}

// parseMetadata reads what the action metadata has printed.
func parseMetadata(text []byte) (*Metadata, error) {
	var doc struct {
		XMLName    xml.Name `xml:"resource-agent"`
		Name       string   `xml:"name,attr"`
		Parameters []struct {
			Name       string `xml:"name,attr"`
			Required   string `xml:"required,attr"`
			Deprecated string `xml:"deprecated,attr"`
			Content    struct {
				Default *string `xml:"default,attr"`
			} `xml:"content"`
			Description string `xml:"shortdesc"`
		} `xml:"parameters>parameter"`
		Actions []struct {
			Name string `xml:"name,attr"`
		} `xml:"actions>action"`
	}
	// Some agents print warnings first.
	if start := bytes.Index(text, []byte("<?xml")); start > 0 {
		text = text[start:]
	}
	if err := xml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("its metadata can't be read: %w", err)
	}
	m := &Metadata{Name: doc.Name, Parameters: map[string]Parameter{}}
	for _, p := range doc.Parameters {
		q := Parameter{Required: p.Required == "1", Deprecated: p.Deprecated == "1", Description: strings.TrimSpace(p.Description)}
		if p.Content.Default != nil {
			q.Default = *p.Content.Default
		}
		m.Parameters[p.Name] = q
	}
	for _, a := range doc.Actions {
		m.Actions = append(m.Actions, a.Name)
	}
	slices.Sort(m.Actions)
	if len(m.Actions) == 0 {
		return nil, errors.New("its metadata names no actions")
	}
	return m, nil
}

// Metadata of an agent. It is remembered until the program changes.
func (r *Runner) Metadata(ctx context.Context, agent string) (*Metadata, error) {
	path, err := r.find(agent)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("agent %s: %w", agent, err)
	}
	r.mu.Lock()
	k, ok := r.known[path]
	r.mu.Unlock()
	if ok && os.SameFile(k.of, info) && k.of.ModTime().Equal(info.ModTime()) && k.of.Size() == info.Size() {
		return k.metadata, nil
	}
	res, err := run(ctx, path, []byte("action=metadata\n"), nil, metadataTimeout)
	if err == nil && res.status != exitDone {
		err = fmt.Errorf("it ended with status %d%s", res.status, quoted(res.said))
	}
	var m *Metadata
	if err == nil {
		m, err = parseMetadata(res.stdout)
	}
	if err != nil {
		return nil, fmt.Errorf("agent %s, action metadata: %w", agent, err)
	}
	r.mu.Lock()
	if r.known == nil {
		r.known = map[string]described{}
	}
	r.known[path] = described{info, m}
	r.mu.Unlock()
	return m, nil
}

// Validate a device on this node: its agent is here and has what the device asks
// for. It returns all faults at once.
func (r *Runner) Validate(ctx context.Context, d *v1.FenceDevice) error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("fence device %s: "+format, append([]any{d.GetName()}, args...)...))
	}
	if t := d.GetTimeout(); t != nil && (t.CheckValid() != nil || t.AsDuration() < MinTimeout || t.AsDuration() > MaxTimeout) {
		bad("timeout is %v: %v to %v are possible", t.AsDuration(), MinTimeout, MaxTimeout)
	}
	if d.GetTries() > MaxTries {
		bad("tries is %d: 1 to %d are possible", d.GetTries(), MaxTries)
	}
	if a := ActionOf(d); a != "off" && a != "reboot" {
		bad("action is %q: off and reboot are possible", a)
	}
	m, err := r.Metadata(ctx, d.GetAgent())
	if err != nil {
		bad("%w", err)
	}
	for _, key := range sortedKeys(d.GetParameters()) {
		value := d.GetParameters()[key]
		target, fromFile := m.secretFrom(key)
		switch {
		case key == "action" || key == "plug" || key == "port" || key == "nodename":
			bad("parameter %s is set by Holdfast: leave it out", key)
			continue
		case key == "debug" || key == "debug_file":
			bad("parameter %s would have the agent write its secrets into a file: leave it out", key)
			continue
		case isSecret(key):
			bad("parameter %s is a secret, and all nodes and readers would see it: put it into a file that only root can read, and set %s_file", key, key)
			continue
		}
		if fromFile {
			if _, err := readSecret(value); err != nil {
				bad("parameter %s: %w", key, err)
			}
			key = target
		}
		if m != nil && !m.has(key) {
			bad("agent %s has no parameter %s%s", d.GetAgent(), key, didYouMean(key, m))
		}
		if strings.ContainsAny(key+value, "\n\r\x00") {
			bad("parameter %q or its value holds a line break", key)
		}
	}
	if m == nil {
		return errors.Join(errs...)
	}
	if !m.Has(ActionOf(d)) {
		bad("agent %s has no action %s; it has %s", d.GetAgent(), ActionOf(d), strings.Join(m.Actions, ", "))
	}
	for _, name := range slices.Sorted(maps.Keys(m.Parameters)) {
		p := m.Parameters[name]
		if !p.Required || p.Default != "" || name == "action" || name == "plug" || name == "port" || p.Deprecated {
			continue
		}
		_, given := d.GetParameters()[name]
		_, inFile := d.GetParameters()[name+"_file"]
		if !given && !inFile && !otherName(name, d, m) {
			bad("agent %s needs parameter %s (%s)", d.GetAgent(), name, p.Description)
		}
	}
	if len(m.plugNames()) == 0 && len(d.GetPlugs()) > 1 {
		bad("agent %s switches one machine only, but the device lists %d nodes", d.GetAgent(), len(d.GetPlugs()))
	}
	for _, node := range sortedKeys(d.GetPlugs()) {
		if plug := d.GetPlugs()[node]; strings.ContainsAny(plug, "\n\r\x00") || plug == "" && len(m.plugNames()) > 0 {
			bad("the plug of node %s is empty or holds a line break", node)
		}
	}
	return errors.Join(errs...)
}

// otherName: agents list required parameters under their old names too (ipaddr, login).
func otherName(name string, d *v1.FenceDevice, m *Metadata) bool {
	for _, pair := range [][2]string{{"ip", "ipaddr"}, {"username", "login"}, {"password", "passwd"}} {
		for i, one := range pair {
			other := pair[1-i]
			if name != one || !m.has(other) {
				continue
			}
			if d.GetParameters()[other] != "" || d.GetParameters()[other+"_file"] != "" {
				return true
			}
		}
	}
	return false
}

// didYouMean finds a parameter that differs in how it is written only.
func didYouMean(key string, m *Metadata) string {
	plain := func(s string) string { return strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(s)) }
	for _, name := range slices.Sorted(maps.Keys(m.Parameters)) {
		if plain(name) == plain(key) || strings.HasPrefix(plain(name), plain(key)) && len(key) > 2 {
			return fmt.Sprintf(": do you mean %s?", name)
		}
	}
	return ""
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
