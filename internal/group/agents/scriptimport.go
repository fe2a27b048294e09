package agents

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// ScriptImport says how a directory of scripts becomes a type.
type ScriptImport struct {
	// Dir has the entry points.
	Dir string
	// TypesFile defines the type; empty: the .cf file in Dir, if there is one.
	TypesFile string
	// Attributes, where no file defines the type, in the order in which they are passed.
	Attributes []string
	// BareValues: the scripts expect values only, as those written before version 50 do.
	BareValues bool
}

// ImportScripts makes a type of a directory of scripts on this machine. Notes are what a person should know.
func ImportScripts(in ScriptImport) (t *v1.ResourceType, notes []string, err error) {
	dir, err := filepath.Abs(in.Dir)
	if err != nil {
		return nil, nil, err
	}
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return nil, nil, fmt.Errorf("%s is no directory with the programs online, offline and monitor", dir)
	}
	t = &v1.ResourceType{
		Name: filepath.Base(dir), Operations: v1.Operations_OPERATIONS_ON_OFF, Limits: &v1.Limits{},
		Description: "By the scripts in " + dir + ".",
		Agent:       &v1.ResourceType_Script{Script: &v1.ScriptAgent{Directory: dir, BareValues: in.BareValues}},
	}
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	file, err := in.typesFile(dir)
	if err != nil {
		return nil, nil, err
	}
	if file != "" {
		text, err := readTypesFile(file)
		if err != nil {
			return nil, nil, err
		}
		types, err := parseTypes(text)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", file, err)
		}
		ft, err := oneType(types, t.Name)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", file, err)
		}
		if err := ft.into(t, note); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", file, err)
		}
	} else {
		for _, name := range in.Attributes {
			t.Attributes = append(t.Attributes, &v1.Attribute{Name: name, Kind: v1.AttributeKind_ATTRIBUTE_KIND_STRING})
		}
		if len(in.Attributes) == 0 {
			note("no file defines its attributes: it has none; name the file with --types, or the attributes with --attributes")
		}
	}
	if !ocfTypeName.MatchString(t.Name) {
		return nil, nil, fmt.Errorf("%q can't be the name of a type: use letters, digits, '-', '_' and '.'", t.Name)
	}
	for _, a := range t.Attributes {
		if !ocfParameterName.MatchString(a.Name) {
			return nil, nil, fmt.Errorf("%q can't be the name of an attribute: use letters, digits, '-', '_' and '.', beginning with a letter", a.Name)
		}
	}
	t.SupportedActions = actionsIn(dir, t.SupportedActions, note)
	if errs := checkScripts(t); len(errs) > 0 {
		var all []string
		for _, e := range errs {
			all = append(all, e.Error())
		}
		return nil, nil, fmt.Errorf("%s can't be used: %s", dir, strings.Join(all, "; "))
	}
	if missing(filepath.Join(dir, "clean")) && t.Operations != v1.Operations_OPERATIONS_NONE {
		note("it has no clean: forcing a resource down means to kill what its online has left running")
	}
	for _, name := range []string{"imf_init", "imf_register", "imf_getnotification"} {
		if !missing(filepath.Join(dir, name)) {
			note("%s is not called: the end of processes that online has left running is noticed without it", name)
		}
	}
	return t, notes, nil
}

// typesFile is the file that defines the type; empty: none.
func (in ScriptImport) typesFile(dir string) (string, error) {
	if in.TypesFile != "" {
		return in.TypesFile, nil
	}
	if len(in.Attributes) > 0 {
		return "", nil
	}
	files, err := filepath.Glob(filepath.Join(globEscape(dir), "*.cf"))
	if err != nil || len(files) < 2 {
		return strings.Join(files, ""), err
	}
	if own := filepath.Join(dir, filepath.Base(dir)+"Types.cf"); slices.Contains(files, own) {
		return own, nil
	}
	return "", fmt.Errorf("%s has several .cf files: say with --types which one defines the type", dir)
}

func globEscape(s string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(s)
}

func readTypesFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxTypesFile+1))
	return string(b), err
}

// actionsIn are the actions of a directory. Those that the definition names and the directory lacks are told.
func actionsIn(dir string, named []string, note func(string, ...any)) (out []string) {
	entries, err := os.ReadDir(filepath.Join(dir, "actions"))
	if err != nil && len(named) == 0 {
		return nil
	}
	for _, e := range entries {
		if executable(filepath.Join(dir, "actions", e.Name())) == nil && ocfTypeName.MatchString(e.Name()) {
			out = append(out, e.Name())
		}
	}
	for _, n := range named {
		if !slices.Contains(out, n) {
			note("action %s is left out: there is no program actions/%s", n, n)
		}
	}
	return out
}

var scriptAgentFile = regexp.MustCompile(`^Script(\d*)Agent$`)

// into puts what a definition of the field says into a type.
func (f fieldType) into(t *v1.ResourceType, note func(string, ...any)) error {
	t.Name = f.name
	var argList, registered []string
	for _, a := range f.attributes {
		switch {
		case a.name == "ArgList":
			argList = a.values
		case a.name == "RegList":
			registered = a.values
		case a.name == "SupportedActions":
			t.SupportedActions = a.values
		case a.name == "AgentFile":
			if m := scriptAgentFile.FindStringSubmatch(filepath.Base(a.scalar())); m != nil {
				version, err := strconv.Atoi(m[1])
				t.GetScript().BareValues = t.GetScript().BareValues || err != nil || version < 50
			}
		case a.static:
			if err := a.take(t, note); err != nil {
				return err
			}
		case a.temp:
			note("%s is temporary and left out", a.name)
		default:
			at, err := a.declared()
			if err != nil {
				return err
			}
			if slices.ContainsFunc(t.Attributes, func(o *v1.Attribute) bool { return o.Name == a.name }) {
				return fmt.Errorf("type %s defines %s twice", f.name, a.name)
			}
			t.Attributes = append(t.Attributes, at)
		}
	}
	has := func(name string) *v1.Attribute {
		i := slices.IndexFunc(t.Attributes, func(a *v1.Attribute) bool { return a.Name == name })
		if i < 0 {
			return nil
		}
		return t.Attributes[i]
	}
	for _, name := range registered {
		if a := has(name); a != nil {
			a.Registered = true
		}
	}
	for _, name := range argList {
		switch {
		case has(name) != nil:
			t.ArgList = append(t.ArgList, name)
		case t.GetScript().GetBareValues():
			return fmt.Errorf("ArgList of type %s names %s, which is no attribute of the type: its scripts count on its place", f.name, name)
		default:
			note("%s of ArgList is not passed: it is no attribute of the type", name)
		}
	}
	return nil
}

// declared makes an attribute.
func (a fieldAttribute) declared() (*v1.Attribute, error) {
	out := &v1.Attribute{Name: a.name, Kind: v1.AttributeKind_ATTRIBUTE_KIND_STRING}
	switch {
	case a.dimension == '[':
		out.Kind = v1.AttributeKind_ATTRIBUTE_KIND_LIST
		var quoted []string
		for _, v := range a.values {
			quoted = append(quoted, quoteWord(v))
		}
		out.Default = strings.Join(quoted, " ")
	case a.dimension == '{':
		out.Kind = v1.AttributeKind_ATTRIBUTE_KIND_MAP
		var quoted []string
		for i, v := range a.values {
			if a.keys[i] == "" || strings.Contains(a.keys[i], "=") {
				return nil, fmt.Errorf("%s: %q can't be a key", a.name, a.keys[i])
			}
			quoted = append(quoted, quoteWord(a.keys[i]+"="+v))
		}
		out.Default = strings.Join(quoted, " ")
	case a.kind == "boolean":
		out.Kind = v1.AttributeKind_ATTRIBUTE_KIND_BOOLEAN
		switch strings.ToLower(a.scalar()) {
		case "1", "true":
			out.Default = "true"
		case "0", "false":
			out.Default = "false"
		}
	case a.kind == "int":
		out.Kind, out.Default = v1.AttributeKind_ATTRIBUTE_KIND_INTEGER, a.scalar()
	default:
		out.Default = a.scalar()
	}
	if err := checkValue(out.Kind, out.Default); out.Default != "" && err != nil {
		return nil, fmt.Errorf("%s: %w", a.name, err)
	}
	return out, nil
}

// quoteWord writes a value so that words reads it as one.
func quoteWord(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\r\n'\"\\") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// take takes in a static attribute: a limit, or something else that is said of the type.
func (a fieldAttribute) take(t *v1.ResourceType, note func(string, ...any)) error {
	value := strings.ToLower(a.scalar())
	number, nerr := strconv.ParseInt(a.scalar(), 10, 32)
	switch a.name {
	case "Operations":
		switch value {
		case "onoff":
		case "ononly":
			t.Operations = v1.Operations_OPERATIONS_ON_ONLY
		case "none":
			t.Operations = v1.Operations_OPERATIONS_NONE
		default:
			return fmt.Errorf("the value of Operations is %q, and none of OnOff, OnOnly and None", a.scalar())
		}
	case "FaultPropagation":
		t.FaultPropagation = proto.Bool(value != "0" && value != "false")
	case "IntentionalOffline":
		t.IntentionalOffline = value == "1" || value == "true"
	case "NumThreads":
		if nerr == nil && number >= 1 {
			t.NumThreads = proto.Uint32(uint32(min(number, 100)))
		}
	case "ScriptPriority":
		if nerr == nil {
			t.ScriptPriority = proto.Int32(int32(max(-20, min(number, 19))))
		}
	case "IMF":
		for i, k := range a.keys {
			if err := setLimit(t.Limits, "IMF "+k, a.values[i]); err != nil {
				note("%s of IMF is left out: %v", k, err)
			}
		}
	default:
		if err := setLimit(t.Limits, a.name, a.scalar()); err != nil {
			note("%s is left out: %v", a.name, err)
		}
	}
	return nil
}

// setLimit sets the limit that the field knows by that name. Its times are in seconds.
func setLimit(l *v1.Limits, name, value string) error {
	m := l.ProtoReflect()
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		rule, _ := proto.GetExtension(f.Options(), v1.E_Rule).(*v1.Rule)
		if rule.GetField() != name {
			continue
		}
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n < 0 || n > math.MaxInt32 {
			return fmt.Errorf("%q is no number that it can have", value)
		}
		if f.Message() != nil {
			m.Set(f, protoreflect.ValueOfMessage(durationpb.New(time.Duration(n)*time.Second).ProtoReflect()))
		} else {
			m.Set(f, protoreflect.ValueOfUint32(uint32(n)))
		}
		return nil
	}
	return errors.New("there is nothing like it in Holdfast")
}
