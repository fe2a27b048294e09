package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// withOutput gives a command the flag -o.
func (a *app) withOutput(c *cobra.Command) *cobra.Command {
	c.Flags().StringVarP(&a.output, "output", "o", "table", "form of the result: table, json or yaml")
	must(c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp)))
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		switch a.output {
		case "table", "json", "yaml":
			return nil
		}
		given := a.output
		a.output = "table" // for the error
		return usage("-o %s: the forms are table, json and yaml", given).hint(c)
	}
	return c
}

func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("cli: %v", err)) // a flag that was not defined
	}
}

// show prints a result in the form that was asked for (C1, C2).
func (a *app) show(schema string, m proto.Message, table func(w io.Writer)) error {
	opts := protoyaml.Options{First: []protoyaml.Pair{{Key: "schema", Value: schema}}, Full: true}
	var text []byte
	switch a.output {
	case "json":
		text = opts.JSON(m)
	case "yaml":
		text = opts.YAML(m)
	default:
		var b strings.Builder
		table(&b)
		text = []byte(b.String())
	}
	_, err := a.Out.Write(text)
	return err
}

// did prints that something was done to an object.
func (a *app) did(object, message string) error {
	if a.output == "json" || a.output == "yaml" {
		opts := protoyaml.Options{First: []protoyaml.Pair{{Key: "schema", Value: "done/1"}, {Key: "object", Value: object}, {Key: "message", Value: message}}}
		text := opts.JSON(&v1.FlushGroupResponse{}) // has no fields of its own
		if a.output == "yaml" {
			text = opts.YAML(&v1.FlushGroupResponse{})
		}
		_, err := a.Out.Write(text)
		return err
	}
	_, err := fmt.Fprintln(a.Out, message)
	return err
}

// failMachine prints an error for programs.
func (a *app) failMachine(f *failure) {
	d := &v1.ErrorDetail{Code: f.code, NextStep: f.next}
	opts := protoyaml.Options{First: []protoyaml.Pair{{Key: "schema", Value: "error/1"}, {Key: "message", Value: f.message}}}
	for _, text := range f.faults {
		d.Faults = append(d.Faults, &v1.Fault{Problem: text})
	}
	if a.output == "yaml" {
		_, _ = a.Err.Write(opts.YAML(d))
		return
	}
	_, _ = a.Err.Write(opts.JSON(d))
}

// table prints rows in columns; the first one is the heading.
func table(w io.Writer, rows ...[]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		for i := range r {
			if r[i] == "" {
				r[i] = "-"
			}
		}
		// Without a trailing cell no trailing blanks are written.
		fmt.Fprintln(t, strings.TrimRight(strings.Join(r, "\t"), "\t"))
	}
	t.Flush()
}

// pairs prints "Name: value" lines in two columns; empty values are left out.
func pairs(w io.Writer, list ...[2]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, p := range list {
		if p[1] != "" {
			fmt.Fprintf(t, "%s:\t%s\n", p[0], p[1])
		}
	}
	t.Flush()
}

// section prints a heading and rows, if there are any beside the first.
func section(w io.Writer, heading string, rows ...[]string) {
	if len(rows) < 2 {
		return
	}
	fmt.Fprintf(w, "\n%s\n", heading)
	table(w, rows...)
}

// word is an enum value as people read it: "waiting online".
func word(e protoreflect.Enum) string {
	var b strings.Builder
	for _, r := range protoyaml.EnumName(e) {
		if 'A' <= r && r <= 'Z' {
			b.WriteByte(' ')
		}
		b.WriteString(strings.ToLower(string(r)))
	}
	if b.String() == "unspecified" {
		return ""
	}
	return b.String()
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

// span rounds a duration to what people read; unset is "".
func span(d *durationpb.Duration) string {
	if d == nil {
		return ""
	}
	return spanOf(d.AsDuration())
}

func spanOf(v time.Duration) string {
	switch {
	case v >= time.Second:
		v = v.Round(10 * time.Millisecond)
	case v >= time.Millisecond:
		v = v.Round(10 * time.Microsecond)
	default:
		v = v.Round(time.Microsecond)
	}
	return protoyaml.Duration(v)
}

// clock writes Unix milliseconds as local time.
func clock(ms int64) string {
	if ms == 0 {
		return ""
	}
	return time.UnixMilli(ms).Format("2006-01-02 15:04:05.000")
}

// heading says who answered, when that matters.
func heading(w io.Writer, s *v1.Source) {
	if s.GetNote() != "" {
		fmt.Fprintf(w, "%s\n\n", s.GetNote())
	}
}
