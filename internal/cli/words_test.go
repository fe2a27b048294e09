package cli

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// commandsOfOthers are added by cmd/holdfast.
var commandsOfOthers = []string{"arbiter", "lockdisk", "lab", "clusterd", "guard", "guardd", "completion", "help"}

// aboutTheProgram: words behind its name that go on with a sentence.
var aboutTheProgram = map[string]bool{"heartbeat": true, "on": true, "of": true, "that": true, "there": true, "reservation": true, "commands": true}

// named finds what looks like a command line in a text: in a document, what stands in code.
var named = regexp.MustCompile(`\bholdfast ((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)*)`)

// Whatever a message or a document tells people to type exists: the command and its flags.
func TestCommandsThatAreNamedExist(t *testing.T) {
	root := (&app{Streams: Streams{Out: io.Discard, Err: io.Discard}}).root()
	root.InitDefaultHelpCmd()
	checked := 0
	check := func(where, text string) {
		for _, at := range named.FindAllStringSubmatchIndex(text, -1) {
			words := strings.Fields(text[at[2]:at[3]])
			if slices.Contains(commandsOfOthers, words[0]) {
				continue
			}
			c, rest := find(root, words)
			if c == root {
				if !aboutTheProgram[words[0]] {
					t.Errorf("%s names %q: there is no command %q", where, "holdfast "+strings.Join(words, " "), words[0])
				}
				continue
			}
			c.InitDefaultHelpFlag()
			checked++
			if c.HasSubCommands() && len(rest) > 0 && !prose(rest[0]) {
				t.Errorf("%s names %q: %q has no command %q", where, "holdfast "+strings.Join(words, " "), c.CommandPath(), rest[0])
			}
			for _, f := range flagsBehind(text[at[3]:]) {
				if c.Flags().Lookup(f) == nil && root.PersistentFlags().Lookup(f) == nil {
					t.Errorf("%s names %q with --%s, which it does not have", where, c.CommandPath(), f)
				}
			}
		}
	}
	err := filepath.WalkDir("../..", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && len(d.Name()) > 2):
			return filepath.SkipDir
		case strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, ".pb.go"):
		case strings.HasSuffix(name, ".go"):
			return eachString(name, func(s string) { check(name, s) })
		case strings.HasSuffix(name, ".md"):
			raw, err := os.ReadFile(name)
			fenced := false
			for line := range strings.Lines(string(raw)) {
				if strings.HasPrefix(line, "```") {
					fenced = !fenced
				}
				if fenced && strings.HasPrefix(strings.TrimLeft(line, " $#"), "holdfast ") {
					check(name, line)
				}
				for i, code := range strings.Split(line, "`") {
					if !fenced && i%2 == 1 && strings.HasPrefix(code, "holdfast ") {
						check(name, code)
					}
				}
			}
			return err
		}
		return nil
	})
	if err != nil || checked < 100 {
		t.Errorf("%d commands found: %v", checked, err)
	}
}

// find goes down the tree of commands as far as words lead.
func find(c *cobra.Command, words []string) (*cobra.Command, []string) {
	for len(words) > 0 {
		i := slices.IndexFunc(c.Commands(), func(s *cobra.Command) bool { return s.Name() == words[0] || s.HasAlias(words[0]) })
		if i < 0 {
			break
		}
		c, words = c.Commands()[i], words[1:]
	}
	return c, words
}

// prose: words that go on with a sentence behind the name of a group of commands.
func prose(word string) bool {
	return slices.Contains([]string{"commands", "and", "or", "is", "shows", "says", "in", "to", "with", "of", "changes"}, word)
}

var flagName = regexp.MustCompile(`^(?:[ ][^- \n.,;:)]\S*)*[ ]--([a-z][a-z-]*)`)

// flagsBehind a command in a text, up to where the command line ends.
func flagsBehind(text string) (flags []string) {
	for {
		m := flagName.FindStringSubmatchIndex(text)
		if m == nil {
			return flags
		}
		// A word with a stop behind it ends the command line.
		if strings.ContainsAny(text[:m[2]], ".,;:)`") {
			return flags
		}
		flags = append(flags, text[m[2]:m[3]])
		text = text[m[1]:]
	}
}

// eachString literal of a Go file; those that are added up count as one.
func eachString(name string, f func(string)) error {
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	var text func(e ast.Expr) string
	text = func(e ast.Expr) string {
		switch e := e.(type) {
		case *ast.BasicLit:
			if s, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
				return s
			}
		case *ast.BinaryExpr:
			if e.Op == token.ADD {
				return text(e.X) + text(e.Y)
			}
		}
		return "X"
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.BinaryExpr:
			f(text(n))
			return false
		case *ast.BasicLit:
			f(text(n))
		}
		return true
	})
	return nil
}
