package agents

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
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

// records are those that have been read or written, so that a monitor need not read a file.
type records struct {
	mu  sync.Mutex
	all map[key]record
}

func (r *records) get(k key) (record, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one, ok := r.all[k]
	return one, ok
}

func (r *records) set(k key, one record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all[k] = one
}

func (r *records) forget(k key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.all, k)
}

// record returns what is remembered; nothing if that can't be read, as after a reboot.
func (p place) record() record {
	if r, ok := p.h.records.get(p.key()); ok {
		return r
	}
	r := p.readRecord()
	p.h.records.set(p.key(), r)
	return r
}

func (p place) readRecord() record {
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
	if err := os.Rename(next, p.recordFile()); err != nil {
		return err
	}
	p.h.records.set(p.key(), r)
	return nil
}

func (p place) forgetRecord() error {
	if err := os.Remove(p.recordFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	p.h.records.set(p.key(), record{})
	return nil
}
