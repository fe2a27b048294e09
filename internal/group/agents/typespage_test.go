package agents

import (
	stdflag "flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

var rewrite = stdflag.Bool("rewrite", false, "write docs/types.md instead of comparing with it")

const typesPage = "../../../docs/types.md"

// docs/types.md says what the bundled types are now.
func TestTypesPage(t *testing.T) {
	want := renderTypes()
	if *rewrite {
		if err := os.WriteFile(typesPage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, err := os.ReadFile(typesPage); err != nil || string(got) != want {
		t.Errorf("docs/types.md is not what the types say (%v): go test ./internal/group/agents -run TestTypesPage -rewrite", err)
	}
}

var kindWords = map[v1.AttributeKind]string{
	text: "text", whole: "number", flag: "true or false", span: "duration", program: "command", path: "path", prefix: "address with prefix length",
	list: "list", table: "NAME=value list",
}

var operationWords = map[v1.Operations]string{
	v1.Operations_OPERATIONS_ON_OFF:  "brought online and offline",
	v1.Operations_OPERATIONS_ON_ONLY: "brought online, and left when the group goes offline",
	v1.Operations_OPERATIONS_NONE:    "only monitored (persistent)",
}

func renderTypes() string {
	var b strings.Builder
	b.WriteString(`# Bundled resource types

What a group can be made of without writing an agent of one's own ([agents.md](agents.md) is about those). This page is written from
the types (` + "`go test ./internal/group/agents -run TestTypesPage -rewrite`" + `).

Attributes are given under ` + "`attributes`" + ` of a resource, those that differ between nodes under ` + "`nodeAttributes`" + ` ([configuration.md](configuration.md)). A *command* is an absolute path
with arguments in the quotes of a shell; no shell is run. A *list* is separated by blanks, with the same quotes. Limits that a type does not name have the values of
[attributes.md](attributes.md#limits); a resource may set its own.

`)
	types := Types()
	for _, typ := range types {
		fmt.Fprintf(&b, "- [%s](#%s)\n", typ.GetName(), strings.ToLower(typ.GetName()))
	}
	for _, typ := range types {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", typ.GetName(), wrapped(typ.GetDescription()))
		fmt.Fprintf(&b, "Resources are %s.", operationWords[typ.GetOperations()])
		if actions := typ.GetSupportedActions(); len(actions) > 0 {
			fmt.Fprintf(&b, " Actions: `%s`.", strings.Join(actions, "`, `"))
		}
		b.WriteString("\n")
		if len(typ.GetAttributes()) > 0 {
			b.WriteString("\n| attribute | holds | unset | what it is |\n|---|---|---|---|\n")
		}
		for _, a := range typ.GetAttributes() {
			holds := kindWords[a.GetKind()]
			if len(a.GetWords()) > 0 {
				holds = "`" + strings.Join(a.GetWords(), "`, `") + "`"
			}
			if a.GetUnique() {
				holds += ", unique"
			}
			unset := ""
			switch {
			case a.GetRequired():
				unset = "*required*"
			case a.GetDefault() != "":
				unset = "`" + a.GetDefault() + "`"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", a.GetName(), holds, unset, a.GetDescription())
		}
		if l := renderLimits(typ.GetLimits()); l != "" {
			fmt.Fprintf(&b, "\nLimits: %s.\n", l)
		}
		if notes := kindOf(typ.GetName()).notes; notes != "" {
			fmt.Fprintf(&b, "\n%s\n", wrapped(notes))
		}
	}
	return b.String()
}

// wrapped breaks a paragraph into lines.
func wrapped(s string) string {
	var b strings.Builder
	width := 0
	for _, w := range strings.Fields(s) {
		switch n := utf8.RuneCountInString(w); {
		case width == 0:
			width = n
		case width+1+n > 120:
			b.WriteByte('\n')
			width = n
		default:
			b.WriteByte(' ')
			width += 1 + n
		}
		b.WriteString(w)
	}
	return b.String()
}

// renderLimits lists what a type sets, by the keys of the configuration.
func renderLimits(l *v1.Limits) string {
	var out []string
	l.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		value := v.String()
		if f.Message() != nil {
			value = v.Message().Interface().(*durationpb.Duration).AsDuration().String()
			if short, ok := strings.CutSuffix(value, "m0s"); ok {
				value = short + "m"
			}
		}
		out = append(out, fmt.Sprintf("%s %s", f.JSONName(), value))
		return true
	})
	slices.Sort(out)
	return strings.Join(out, ", ")
}
