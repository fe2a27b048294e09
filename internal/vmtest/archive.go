//go:build linux

package main

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"path"
)

// archive is an initramfs: a cpio archive of the form newc, gzipped. Its first error stays.
type archive struct {
	f    *os.File
	buf  *bufio.Writer
	zip  *gzip.Writer
	at   int
	next int
	dirs map[string]bool
	err  error
}

func newArchive(name string) (*archive, error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	a := &archive{f: f, buf: bufio.NewWriter(f), dirs: map[string]bool{".": true}}
	a.zip, err = gzip.NewWriterLevel(a.buf, gzip.BestSpeed)
	return a, err
}

func (a *archive) write(b []byte) {
	if a.err == nil {
		_, a.err = a.zip.Write(b)
		a.at += len(b)
	}
}

func (a *archive) pad() { a.write(make([]byte, (4-a.at%4)%4)) }

func (a *archive) entry(name string, mode uint32, content []byte) {
	for dir := path.Dir(name); !a.dirs[dir]; dir = path.Dir(name) {
		a.directory(dir)
	}
	a.next++
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.next, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
	a.write([]byte(header + name + "\x00"))
	a.pad()
	a.write(content)
	a.pad()
}

func (a *archive) directory(name string) {
	if !a.dirs[path.Dir(name)] {
		a.directory(path.Dir(name))
	}
	a.dirs[name] = true
	a.entry(name, 0o40755, nil)
}

func (a *archive) bytes(name string, content []byte, mode uint32) {
	a.entry(name, 0o100000|mode, content)
}

func (a *archive) file(name, from string, mode uint32) {
	content, err := os.ReadFile(from)
	if err != nil && a.err == nil {
		a.err = err
	}
	a.bytes(name, content, mode)
}

func (a *archive) link(name, to string) { a.entry(name, 0o120777, []byte(to)) }

func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, nil)
	return errors.Join(a.err, a.zip.Close(), a.buf.Flush(), a.f.Close())
}
