package deliver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// programTimeout where a notifier says nothing.
const programTimeout = 30 * time.Second

// maxSaid bounds what of a program's output goes into an error, in characters.
const maxSaid = 160

type program struct {
	*v1.ProgramNotifier
	run RunProgram
}

func (p program) name() (way, to string) { return "program", p.GetCommand() }

func (p program) argv() ([]string, error) {
	argv, err := words(p.GetCommand())
	switch {
	case err != nil:
		return nil, err
	case len(argv) == 0:
		return nil, errors.New("no program is named")
	case !filepath.IsAbs(argv[0]):
		return nil, fmt.Errorf("%q is not an absolute path: no search path and no shell is used", argv[0])
	}
	info, err := os.Stat(argv[0])
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return nil, fmt.Errorf("%s is no program that can be run", argv[0])
	}
	return argv, nil
}

func (p program) check() error {
	_, err := p.argv()
	return err
}

func (p program) send(ctx context.Context, notifier string, m *Message, _ *[]string) error {
	argv, err := p.argv()
	if err != nil {
		return err
	}
	status, said := p.run(ctx, notifier, argv, append(m.JSON(notifier), '\n'), cmp.Or(p.GetTimeout().AsDuration(), programTimeout))
	text := []rune(printable(said))
	if len(text) > maxSaid {
		text = append([]rune("…"), text[len(text)-maxSaid:]...)
	}
	tail := ""
	if len(text) > 0 {
		tail = ": " + string(text)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case status < 0:
		return fmt.Errorf("%s did not end by itself%s", argv[0], tail)
	case status > 0:
		return fmt.Errorf("%s ended with status %d%s", argv[0], status, tail)
	}
	return nil
}

// words splits a command as a shell would, with quotes and backslashes, but expands nothing.
func words(s string) (out []string, err error) {
	var word []rune
	inWord, escaped := false, false
	var quote rune
	for _, r := range s {
		switch {
		case r == 0:
			return nil, errors.New("a command can't hold a zero byte")
		case escaped:
			word, escaped = append(word, r), false
		case r == '\\' && quote != '\'':
			inWord, escaped = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word = append(word, r)
		case r == '\'' || r == '"':
			inWord, quote = true, r
		case r == ' ' || r == '\t' || r == '\n' || r == '\r':
			if inWord {
				out = append(out, string(word))
			}
			word, inWord = nil, false
		default:
			word, inWord = append(word, r), true
		}
	}
	if quote != 0 || escaped {
		return nil, fmt.Errorf("%q ends inside a quote", s)
	}
	if inWord {
		out = append(out, string(word))
	}
	return out, nil
}
