package consensus

import "fmt"

// logger gives the library's lines to a function. Where the library would end
// the process, it panics with what it had to say: the log is damaged then, and
// nothing that this node would do next is safe.
type logger func(format string, args ...any)

func (l logger) line(level string, v ...any) {
	if l != nil {
		l("raft: %s: %s", level, fmt.Sprint(v...))
	}
}

func (l logger) linef(level, format string, v ...any) {
	if l != nil {
		l("raft: %s: %s", level, fmt.Sprintf(format, v...))
	}
}

func (l logger) Debug(v ...any)                   {}
func (l logger) Debugf(format string, v ...any)   {}
func (l logger) Info(v ...any)                    { l.line("info", v...) }
func (l logger) Infof(format string, v ...any)    { l.linef("info", format, v...) }
func (l logger) Warning(v ...any)                 { l.line("warning", v...) }
func (l logger) Warningf(format string, v ...any) { l.linef("warning", format, v...) }
func (l logger) Error(v ...any)                   { l.line("error", v...) }
func (l logger) Errorf(format string, v ...any)   { l.linef("error", format, v...) }
func (l logger) Fatal(v ...any)                   { panic("raft: " + fmt.Sprint(v...)) }
func (l logger) Fatalf(format string, v ...any)   { panic("raft: " + fmt.Sprintf(format, v...)) }
func (l logger) Panic(v ...any)                   { panic("raft: " + fmt.Sprint(v...)) }
func (l logger) Panicf(format string, v ...any)   { panic("raft: " + fmt.Sprintf(format, v...)) }
