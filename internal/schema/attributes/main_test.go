package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestCurrent: the committed page is what the schema says.
func TestCurrent(t *testing.T) {
	const root = "../../.."
	want, err := Page(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile(filepath.Join(root, page))
	if err != nil || !bytes.Equal(have, want) {
		t.Errorf("%s is not current: run make generate", page)
	}
}
