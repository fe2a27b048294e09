package agents

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// record is what is remembered of a service in the run directory, so that the next host finds it.
type record struct {
	// Main process; Pid 0: none in particular, any member of the service will do.
	Main    process `json:"main"`
	Session int     `json:"session,omitempty"`
	// Forked: the program that was started has ended and left a daemon.
	Forked bool `json:"forked,omitempty"`
	// Starting: online is under way.
	Starting bool `json:"starting,omitempty"`
	// Stage of a resource of which nothing else tells whether it is online.
	Stage stage `json:"stage,omitempty"`
	// Card that is the active one of several.
	Card string `json:"card,omitempty"`
}

// stage is how far a resource has got that is online because it was brought online, and for no other reason.
type stage string

const (
	// halfStarted: whoever began its start has not ended it.
	halfStarted stage = "starting"
	started     stage = "started"
)

func (h *Host) recordsDir() string { return filepath.Join(h.runDir, "agents") }

func (p place) recordFile() string {
	return filepath.Join(p.h.recordsDir(), fileName(p.group)+"."+fileName(p.resource)+".json")
}

// record returns what is remembered; nothing if that can't be read, as after a reboot.
func (p place) record() record {
	var r record
	b, err := os.ReadFile(p.recordFile())
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return record{}
	}
	return r
}

func (p place) save(r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	next := p.recordFile() + ".new"
	if err := os.WriteFile(next, b, 0o600); err != nil {
		return err
	}
	return os.Rename(next, p.recordFile())
}

func (p place) forgetRecord() error {
	if err := os.Remove(p.recordFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
