package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCurrent: the committed Go code is what the .proto files stand for.
func TestCurrent(t *testing.T) {
	const root = "../.."
	files, err := Generate(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("no .proto file found")
	}
	for name, want := range files {
		have, err := os.ReadFile(filepath.Join(root, name))
		if err != nil || !bytes.Equal(have, want) {
			t.Errorf("%s is not current: run make generate", name)
		}
	}
	err = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if rel, _ := filepath.Rel(root, path); strings.HasSuffix(path, ".pb.go") || strings.HasSuffix(path, ".connect.go") {
			if files[filepath.ToSlash(rel)] == nil {
				t.Errorf("%s belongs to no .proto file: remove it", rel)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
