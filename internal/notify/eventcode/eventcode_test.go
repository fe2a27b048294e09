package eventcode_test

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/notify/eventcode"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

var rewrite = flag.Bool("rewrite", false, "write docs/events.md")

// emitters are the trees whose packages make events.
var emitters = []string{"internal/cluster/state", "internal/group", "internal/node", "internal/api", "internal/notify"}

// others are texts of the form of a code that are none.
var others = map[string]string{
	"node.invalid":      "a host name that no machine has",
	"resource.d":        "a directory",
	"guard.sock":        "a file",
	"guard.lock":        "a file",
	"guard.lease":       "a file",
	"guard.state":       "a file",
	"guard.detached":    "a file",
	"guard.incarnation": "a file",
}

var form = regexp.MustCompile(`^[a-z]+\.[a-z]+(-[a-z]+)*$`)

// A use of a code in the source.
type use struct {
	at, code string
	// As Go writes it, if one stands right before it among arguments or fields.
	severity string
}

// uses finds texts of the form of codes whose subject the table knows, and all
// codes that stand beside a severity. whole are subjects that are put together with something.
func uses(file *ast.File, at func(token.Pos) string, subjects map[string]bool) (found []use, parts []string) {
	text := func(e ast.Expr) string {
		if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			s, _ := strconv.Unquote(lit.Value)
			return s
		}
		return ""
	}
	severityOf := func(e ast.Expr) string {
		if s, ok := e.(*ast.SelectorExpr); ok && strings.HasPrefix(s.Sel.Name, "Severity_SEVERITY_") {
			return s.Sel.Name
		}
		return ""
	}
	beside := map[ast.Expr]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		switch x := n.(type) {
		case *ast.CallExpr:
			for i := 1; i < len(x.Args); i++ {
				if s := severityOf(x.Args[i-1]); s != "" && form.MatchString(text(x.Args[i])) {
					beside[x.Args[i]] = s
				}
			}
		case *ast.CompositeLit:
			var severity string
			var code ast.Expr
			for _, e := range x.Elts {
				if kv, ok := e.(*ast.KeyValueExpr); ok {
					switch name, _ := kv.Key.(*ast.Ident); {
					case name == nil:
					case name.Name == "Severity":
						severity = severityOf(kv.Value)
					case name.Name == "Code":
						code = kv.Value
					}
				}
			}
			if code != nil && severity != "" {
				if text(code) == "" {
					if _, constant := code.(*ast.Ident); !constant {
						parts = append(parts, at(code.Pos()))
					}
				}
				beside[code] = severity
			}
		case *ast.BinaryExpr:
			if subject, ok := strings.CutSuffix(text(x.X), "."); ok && subjects[subject] {
				parts = append(parts, at(x.Pos()))
			}
		case *ast.BasicLit:
			code := text(x)
			subject, _, _ := strings.Cut(code, ".")
			severity, known := beside[x]
			if form.MatchString(code) && (known || subjects[subject]) && others[code] == "" {
				found = append(found, use{at: at(x.Pos()), code: code, severity: severity})
			}
		}
		return true
	})
	return found, parts
}

// E1, E2.
func TestTableAndSourceAgree(t *testing.T) {
	subjects := map[string]bool{}
	for _, c := range eventcode.Table {
		subject, _, _ := strings.Cut(c.Code, ".")
		subjects[subject] = true
	}
	used := map[string]bool{}
	for _, tree := range emitters {
		err := filepath.WalkDir(filepath.Join("../../..", tree), func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || strings.Contains(name, "/eventcode/") {
				return err
			}
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, name, nil, 0)
			if err != nil {
				return err
			}
			found, parts := uses(file, func(p token.Pos) string { return fset.Position(p).String() }, subjects)
			for _, at := range parts {
				t.Errorf("%s: write codes of events in one piece, so that they can be found", at)
			}
			for _, u := range found {
				used[u.code] = true
				row, ok := eventcode.Find(u.code)
				if !ok {
					t.Errorf("%s: code %s has no row in internal/notify/eventcode/table.go", u.at, u.code)
				} else if u.severity != "" && !slices.ContainsFunc(row.Severities, func(s v1.Severity) bool { return "Severity_"+s.String() == u.severity }) {
					t.Errorf("%s: code %s comes with %s, which is not in its row of internal/notify/eventcode/table.go", u.at, u.code, u.severity)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range eventcode.Table {
		if !used[c.Code] {
			t.Errorf("code %s of internal/notify/eventcode/table.go is used nowhere", c.Code)
		}
	}
}

// The finder finds what it is for.
func TestUses(t *testing.T) {
	const source = `package x
func f() {
	a.nodeEvent(v1.Severity_SEVERITY_ERROR, "node.evicted", node, "x")
	e := &v1.Event{Severity: v1.Severity_SEVERITY_WARNING, Code: "moon.eclipsed"}
	e.Code = "node.left"
	e.Code = "node." + verb
	open("some.file", "node.key2")
}`
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "x.go", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	found, parts := uses(file, func(p token.Pos) string { return strconv.Itoa(fset.Position(p).Line) }, map[string]bool{"node": true})
	got := fmt.Sprint(found, parts)
	const want = "[{3 node.evicted Severity_SEVERITY_ERROR} {4 moon.eclipsed Severity_SEVERITY_WARNING} {5 node.left }] [6]"
	if got != want {
		t.Errorf("found %s\nwant  %s", got, want)
	}
}

func TestTableIsWellFormed(t *testing.T) {
	for i, c := range eventcode.Table {
		switch {
		case !form.MatchString(c.Code):
			t.Errorf("%q is not of the form subject.what", c.Code)
		case i > 0 && eventcode.Table[i-1].Code >= c.Code:
			t.Errorf("%s does not stand in order", c.Code)
		case len(c.Severities) == 0 || slices.Contains(c.Severities, 0):
			t.Errorf("%s has no severity", c.Code)
		case !strings.HasSuffix(c.Meaning, ".") || c.Do != "" && !strings.HasSuffix(c.Do, "."):
			t.Errorf("%s: meaning and remedy are sentences", c.Code)
		case c.Do == "" && c.Severities[0] >= 3 && c.Code != "cluster.destroyed":
			t.Errorf("%s is bad, but nothing says what to do", c.Code)
		}
	}
}

const (
	begin = "<!-- from internal/notify/eventcode/table.go: go test ./internal/notify/eventcode -rewrite -->\n"
	end   = "<!-- end -->\n"
)

// The table in docs/events.md is the one of the source.
func TestDocument(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(begin)
	b.WriteString("| code | severity | meaning | what to do |\n|---|---|---|---|\n")
	for _, c := range eventcode.Table {
		var severities []string
		for _, s := range c.Severities {
			severities = append(severities, protoyaml.EnumName(s))
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", c.Code, strings.Join(severities, ", "), c.Meaning, c.Do)
	}
	b.WriteString(end)
	const name = "../../../docs/events.md"
	have, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	from, to := bytes.Index(have, []byte(begin)), bytes.Index(have, []byte(end))
	if from < 0 || to < from {
		t.Fatalf("%s has no place for the table: %s…%s", name, begin, end)
	}
	want := slices.Concat(have[:from], b.Bytes(), have[to+len(end):])
	if *rewrite {
		if err := os.WriteFile(name, want, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if !bytes.Equal(have, want) {
		t.Errorf("the table in %s is not current: go test ./internal/notify/eventcode -rewrite", name)
	}
}

func TestBeginnings(t *testing.T) {
	all := eventcode.Beginnings()
	for _, want := range []string{"node.", "node.evicted"} {
		if n, found := slices.BinarySearch(all, want); !found || n > 0 && all[n-1] == want {
			t.Errorf("%s is not there once: %q", want, all)
		}
	}
}
