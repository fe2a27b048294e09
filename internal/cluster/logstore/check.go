package logstore

import (
	"os"

	"github.com/holdfast-ha/holdfast/internal/boltfile"
)

func checkFile(f *os.File) error { return structure(boltfile.Check(f)) }

func checkBytes(file []byte) error { return structure(boltfile.CheckBytes(file)) }

func structure(err error) error {
	if err != nil {
		return damaged("%v", err)
	}
	return nil
}
