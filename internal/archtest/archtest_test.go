package archtest

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A source is one Go file of the tree.
type source struct {
	path      string // below the module root, with slashes
	raw       []byte
	file      *ast.File
	fset      *token.FileSet
	generated bool
	test      bool
}

func (s *source) dir() string { return path.Dir(s.path) }

func (s *source) at(p token.Pos) string {
	return fmt.Sprintf("%s:%d", s.path, s.fset.Position(p).Line)
}

const root = "../.."

// walk visits all files of the tree but those that builds and labs leave.
func walk(t *testing.T, visit func(name string, raw []byte)) {
	t.Helper()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, name)
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if rel == "bin" || rel == "lab" || rel == ".git" {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		raw, err := os.ReadFile(name)
		if os.IsNotExist(err) {
			return nil // an editor's or a build's file that was there a moment ago
		}
		if err != nil {
			return err
		}
		visit(rel, raw)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func sources(t *testing.T) []*source {
	t.Helper()
	var all []*source
	walk(t, func(name string, raw []byte) {
		if !strings.HasSuffix(name, ".go") || strings.Contains(name, "/testdata/") {
			return
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, raw, parser.ParseComments)
		if err != nil {
			t.Error(err)
			return
		}
		all = append(all, &source{
			path: name, raw: raw, file: file, fset: fset,
			generated: ast.IsGenerated(file),
			test:      strings.HasSuffix(name, "_test.go"),
		})
	})
	if len(all) < 5 {
		t.Fatalf("only %d Go files found below %s", len(all), root)
	}
	return all
}

func imports(s *source) map[string]token.Pos {
	m := map[string]token.Pos{}
	for _, spec := range s.file.Imports {
		name, _ := strconv.Unquote(spec.Path.Value)
		m[name] = spec.Pos()
	}
	return m
}

// floorOf a package directory: its number and the row's name for it.
func floorOf(dir string) (number int, row string) {
	number = -1
	for i, f := range floors {
		for _, p := range f.packages {
			tree, isTree := strings.CutSuffix(p, "/...")
			if p == dir {
				return i, p
			}
			if isTree && strings.HasPrefix(dir, tree+"/") && len(p) > len(row) {
				number, row = i, p
			}
		}
	}
	return number, row
}

func TestFloors(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue // tests may look down from anywhere
		}
		have, row := floorOf(s.dir())
		if have < 0 {
			t.Errorf("%s: package %s stands on no floor: give it a row in internal/archtest/floors.go", s.path, s.dir())
			continue
		}
		for name, pos := range imports(s) {
			dir, ours := strings.CutPrefix(name, module)
			if !ours {
				continue
			}
			want, otherRow := floorOf(dir)
			switch {
			case want > have:
				t.Errorf("%s imports %s, which stands %d floors higher: %s", s.at(pos), dir, want-have, floors[have].why)
			case want == have && !floors[have].inside && (row != otherRow || dir == s.dir()):
				t.Errorf("%s imports %s of its own floor: %s", s.at(pos), dir, floors[have].why)
			}
		}
	}
}

func TestFloorRowsExist(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range sources(t) {
		for d := s.dir(); d != "."; d = path.Dir(d) {
			seen[d] = true
		}
	}
	for _, f := range floors {
		if f.why == "" {
			t.Errorf("floor %v has no reason", f.packages)
		}
		for _, p := range f.packages {
			if !seen[strings.TrimSuffix(p, "/...")] {
				t.Errorf("floors names %s, which does not exist", p)
			}
		}
	}
}

// TestCores: a core is a function of its inputs.
func TestCores(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || s.generated || !slices.Contains(cores, s.dir()) {
			continue
		}
		for name, pos := range imports(s) {
			for bad, why := range forbiddenImports {
				bad = strings.TrimSuffix(bad, "/...")
				if name != bad && !strings.HasPrefix(name, bad+"/") {
					continue
				}
				if exempt[[2]string{s.dir(), bad}] == "" {
					t.Errorf("%s imports %s: %s", s.at(pos), name, why)
				}
			}
		}
		for _, f := range impure(s) {
			t.Error(f)
		}
	}
}

// impure finds calls and statements that a core must not make.
func impure(s *source) []string {
	var found []string
	local := map[string]string{} // name in the file -> import path
	for _, spec := range s.file.Imports {
		name, _ := strconv.Unquote(spec.Path.Value)
		if forbiddenCalls[name] == nil {
			continue
		}
		as := path.Base(strings.TrimSuffix(name, "/v2"))
		if spec.Name != nil {
			as = spec.Name.Name
		}
		local[as] = name
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			found = append(found, fmt.Sprintf("%s starts a goroutine: a core does one thing at a time, in the order of its inputs", s.at(n.Pos())))
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			if !ok || x.Obj != nil {
				return true
			}
			rules := forbiddenCalls[local[x.Name]]
			why := rules[n.Sel.Name]
			if why == "" && rules["*"] != "" && ast.IsExported(n.Sel.Name) && !slices.Contains(allowedCalls, n.Sel.Name) && !isRandType(n.Sel.Name) {
				why = rules["*"]
			}
			if why != "" {
				found = append(found, fmt.Sprintf("%s uses %s.%s: %s", s.at(n.Pos()), x.Name, n.Sel.Name, why))
			}
		}
		return true
	})
	return found
}

func isRandType(name string) bool {
	return slices.Contains([]string{"Rand", "Source", "PCG", "ChaCha8", "Zipf"}, name)
}

// TestImpure: the finder finds.
func TestImpure(t *testing.T) {
	for src, want := range map[string]int{
		`import "time"; func f() { _ = time.Now() }`:                           1,
		`import "time"; var d = 2 * time.Second`:                               0,
		`import "time"; var f = time.After`:                                    1,
		`import r "math/rand/v2"; var n = r.IntN(3)`:                           1,
		`import "math/rand/v2"; func f(r *rand.Rand) int { return r.IntN(3) }`: 0,
		`import "math/rand/v2"; var r = rand.New(rand.NewPCG(1, 2))`:           0,
		`func f() { go f() }`:                                                  1,
	} {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, "x.go", "package x; "+src, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := impure(&source{path: "x.go", file: file, fset: fset}); len(got) != want {
			t.Errorf("%s: found %q, want %d", src, got, want)
		}
	}
}

func TestPackageComments(t *testing.T) {
	comment := map[string]bool{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		comment[s.dir()] = comment[s.dir()] || s.generated || (s.file.Doc != nil && len(s.file.Doc.Text()) > 40)
	}
	for dir, ok := range comment {
		if !ok {
			t.Errorf("package %s has no package comment: say what it decides and what its caller owes it", dir)
		}
	}
}

func TestFormat(t *testing.T) {
	for _, s := range sources(t) {
		if s.generated {
			continue
		}
		want, err := format.Source(s.raw)
		if err != nil {
			t.Errorf("%s: %v", s.path, err)
		} else if !bytes.Equal(want, s.raw) {
			t.Errorf("%s is not formatted: run gofmt -w %s", s.path, s.path)
		}
		if n := bytes.Count(s.raw, []byte("\n")); n > maxLines {
			t.Errorf("%s has %d lines, more than %d: split it by idea", s.path, n, maxLines)
		}
	}
}

// The marks are put together here so that this file does not hold them.
var marks = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b|/wo` + `rk/|/home` + `/[a-z]+/`)

func TestMarks(t *testing.T) {
	walk(t, func(name string, raw []byte) {
		if isGenerated(raw) || !isText(raw) || name == "LICENSE" {
			return
		}
		for i, line := range strings.Split(string(raw), "\n") {
			if m := marks.FindString(line); m != "" {
				t.Errorf("%s:%d has %q: finish it, or take the path as an argument", name, i+1, m)
			}
		}
	})
}

func isGenerated(raw []byte) bool {
	return bytes.HasPrefix(raw, []byte("// Code generated"))
}

func isText(raw []byte) bool {
	return !bytes.Contains(raw[:min(len(raw), 4096)], []byte{0})
}

var (
	markdownLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	namedDoc     = regexp.MustCompile(`\bdocs/[A-Za-z0-9_./-]+\.md\b`)
)

// TestLinks: what one file says of another is there.
func TestLinks(t *testing.T) {
	exists := func(name string) bool {
		_, err := os.Stat(filepath.Join(root, filepath.FromSlash(name)))
		return err == nil
	}
	walk(t, func(name string, raw []byte) {
		if isGenerated(raw) || !isText(raw) || strings.Contains(name, "/testdata/") {
			return
		}
		for _, doc := range namedDoc.FindAllString(string(raw), -1) {
			if !exists(doc) {
				t.Errorf("%s names %s, which does not exist", name, doc)
			}
		}
		if !strings.HasSuffix(name, ".md") {
			return
		}
		for _, m := range markdownLink.FindAllStringSubmatch(string(raw), -1) {
			link, _, _ := strings.Cut(m[1], "#")
			if link == "" || strings.Contains(link, "://") || strings.HasPrefix(link, "mailto:") {
				continue
			}
			if target := path.Join(path.Dir(name), link); !exists(target) {
				t.Errorf("%s links to %s, which does not exist", name, target)
			}
		}
	})
}
