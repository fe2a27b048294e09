package agents

import (
	"errors"
	"fmt"
	"strings"
)

// maxTypesFile is how long a file of type definitions may be.
const maxTypesFile = 1 << 20

// fieldType is a type as the field's files of type definitions describe it.
type fieldType struct {
	name       string
	attributes []fieldAttribute
}

// fieldAttribute is one line of a type: "static int MonitorInterval = 30".
type fieldAttribute struct {
	static, temp bool
	kind         string // str, int, boolean, keylist
	name         string
	dimension    byte // 0, '[' or '{'
	given        bool // there is a value
	values       []string
	keys         []string // of an association, one per value
}

// scalar is the value of an attribute that has one.
func (a fieldAttribute) scalar() string {
	if len(a.values) == 0 {
		return ""
	}
	return a.values[0]
}

// parseTypes reads a file of type definitions. Everything in it that is not a type is left out.
func parseTypes(text string) ([]fieldType, error) {
	if len(text) > maxTypesFile {
		return nil, fmt.Errorf("it is longer than %d KiB", maxTypesFile>>10)
	}
	p := &typesParser{text: text, line: 1}
	p.next()
	var out []fieldType
	for p.tok != "" || p.quoted {
		if p.err != nil {
			break
		}
		if p.tok != "type" || p.quoted {
			p.next()
			continue
		}
		p.next()
		out = append(out, p.typ())
	}
	if p.err != nil {
		return nil, fmt.Errorf("line %d: %w", p.line, p.err)
	}
	return out, nil
}

type typesParser struct {
	text string
	at   int
	line int
	// tok is the next word or sign; empty at the end, unless quoted.
	tok    string
	quoted bool
	err    error
}

func (p *typesParser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	}
	p.tok, p.quoted, p.at = "", false, len(p.text)
}

// next reads the next word or sign.
func (p *typesParser) next() {
	p.tok, p.quoted = "", false
	if p.err != nil {
		return
	}
	for p.at < len(p.text) {
		c := p.text[p.at]
		rest := p.text[p.at:]
		switch {
		case c == '\n':
			p.line++
			p.at++
		case c == ' ' || c == '\t' || c == '\r' || c == ';':
			p.at++
		case strings.HasPrefix(rest, "//"):
			end := strings.IndexByte(rest, '\n')
			if end < 0 {
				end = len(rest)
			}
			p.at += end
		case strings.HasPrefix(rest, "/*"):
			end := strings.Index(rest, "*/")
			if end < 0 {
				p.fail("a comment that begins with /* has no end")
				return
			}
			p.line += strings.Count(rest[:end], "\n")
			p.at += end + 2
		case c == '"':
			p.string()
			return
		case strings.IndexByte("(){}[]=,", c) >= 0:
			p.tok = string(c)
			p.at++
			return
		default:
			n := strings.IndexAny(rest, " \t\r\n;(){}[]=,\"")
			if n < 0 {
				n = len(rest)
			}
			p.tok = rest[:n]
			p.at += n
			return
		}
	}
}

func (p *typesParser) string() {
	var b strings.Builder
	for i := p.at + 1; i < len(p.text); i++ {
		switch c := p.text[i]; c {
		case '"':
			p.tok, p.quoted, p.at = b.String(), true, i+1
			return
		case '\n':
			p.fail("a quoted value has no end")
			return
		case '\\':
			if i+1 < len(p.text) && (p.text[i+1] == '"' || p.text[i+1] == '\\') {
				i++
			}
			b.WriteByte(p.text[i])
		default:
			b.WriteByte(c)
		}
	}
	p.fail("a quoted value has no end")
}

// sign says whether the next is that sign.
func (p *typesParser) sign(s string) bool { return p.tok == s && !p.quoted }

func (p *typesParser) expect(s string) {
	if !p.sign(s) {
		p.fail("%q where %s should be", p.tok, s)
		return
	}
	p.next()
}

func (p *typesParser) word(what string) string {
	w := p.tok
	if p.quoted || w == "" || strings.Contains("(){}[]=,", w) {
		p.fail("%q where %s should be", w, what)
		return ""
	}
	p.next()
	return w
}

func (p *typesParser) typ() (t fieldType) {
	t.name = p.word("the name of a type")
	p.expect("(")
	for p.err == nil && !p.sign(")") {
		if p.tok == "" && !p.quoted {
			p.fail("type %s has no closing parenthesis", t.name)
			return t
		}
		t.attributes = append(t.attributes, p.attribute())
	}
	p.next()
	return t
}

func (p *typesParser) attribute() (a fieldAttribute) {
	a.kind = p.word("an attribute")
	for a.kind == "static" || a.kind == "temp" {
		a.static, a.temp = a.static || a.kind == "static", a.temp || a.kind == "temp"
		a.kind = p.word("the kind of an attribute")
	}
	switch a.kind {
	case "str", "int", "boolean":
	case "keylist":
		a.dimension = '['
	default:
		p.fail("%q is no kind of attribute: there are str, int, boolean and keylist", a.kind)
		return a
	}
	a.name = p.word("the name of an attribute")
	switch {
	case p.sign("["):
		a.dimension = '['
		p.next()
		p.expect("]")
	case p.sign("{"):
		a.dimension = '{'
		p.next()
		p.expect("}")
	}
	if !p.sign("=") {
		return a
	}
	p.next()
	a.given = true
	if a.dimension == 0 {
		a.values = []string{p.value()}
		return a
	}
	p.expect("{")
	for p.err == nil && !p.sign("}") {
		v := p.value()
		if a.dimension == '{' {
			a.keys = append(a.keys, v)
			p.expect("=")
			v = p.value()
		}
		a.values = append(a.values, v)
		if p.sign(",") {
			p.next()
		}
	}
	p.expect("}")
	return a
}

func (p *typesParser) value() string {
	if p.quoted {
		v := p.tok
		p.next()
		return v
	}
	return p.word("a value")
}

var errNoType = errors.New("it defines no type")

// oneType chooses a type of a file: the one of that name, or the only one.
func oneType(types []fieldType, name string) (fieldType, error) {
	var names []string
	for _, t := range types {
		if t.name == name {
			return t, nil
		}
		names = append(names, t.name)
	}
	switch len(types) {
	case 0:
		return fieldType{}, errNoType
	case 1:
		return types[0], nil
	}
	return fieldType{}, fmt.Errorf("it defines %d types, none of which is named like the directory, %s: %s", len(types), name, strings.Join(names, ", "))
}
