package agents

import (
	"fmt"
	"path/filepath"
	"strings"
)

// words splits a command line as a shell does, with quotes and backslashes, but expands nothing.
func words(s string) ([]string, error) {
	var out []string
	var w strings.Builder
	inWord := false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch c {
		case ' ', '\t', '\n', '\r':
			if inWord {
				out = append(out, w.String())
				w.Reset()
				inWord = false
			}
		case '\'':
			end := strings.IndexByte(s[i+1:], '\'')
			if end < 0 {
				return nil, fmt.Errorf("a single quote at character %d is not closed in %q", i+1, s)
			}
			w.WriteString(s[i+1 : i+1+end])
			i += end + 1
			inWord = true
		case '"':
			start := i
			for i++; i < len(s) && s[i] != '"'; i++ {
				if s[i] == '\\' && i+1 < len(s) && strings.IndexByte("\"\\$`", s[i+1]) >= 0 {
					i++
				}
				w.WriteByte(s[i])
			}
			if i >= len(s) {
				return nil, fmt.Errorf("a double quote at character %d is not closed in %q", start+1, s)
			}
			inWord = true
		case '\\':
			if i+1 >= len(s) {
				return nil, fmt.Errorf("nothing follows the backslash at the end of %q", s)
			}
			i++
			w.WriteByte(s[i])
			inWord = true
		case 0:
			return nil, fmt.Errorf("a zero byte at character %d can't be part of a command", i+1)
		default:
			w.WriteByte(c)
			inWord = true
		}
	}
	if inWord {
		out = append(out, w.String())
	}
	return out, nil
}

// command splits a command line whose first word must be the absolute path of a program.
func command(s string) ([]string, error) {
	argv, err := words(s)
	switch {
	case err != nil:
		return nil, err
	case len(argv) == 0:
		return nil, fmt.Errorf("it is empty: give the absolute path of a program")
	case !filepath.IsAbs(argv[0]):
		return nil, fmt.Errorf("%q is not an absolute path: no search path and no shell is used", argv[0])
	}
	return argv, nil
}

// variables splits "A=b C='d e'" into environment variables.
func variables(s string) ([]string, error) {
	vars, err := words(s)
	if err != nil {
		return nil, err
	}
	for _, v := range vars {
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" {
			return nil, fmt.Errorf("%q is not of the form NAME=value", v)
		}
	}
	return vars, nil
}
