package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Phase of a lab.
type Phase string

// A lab that is found in another phase than Up, and whose lock nobody holds, is an orphan.
const (
	Making   Phase = "making"
	Up       Phase = "up"
	Removing Phase = "removing"
)

// recordSchema names the form of lab.json.
const recordSchema = "holdfast-lab/1"

// A record is lab.json: all that a lab is made of, written before it is made.
type record struct {
	Schema string `json:"schema"`
	Phase  Phase  `json:"phase"`
	// The machine's boot in which it was made: after another only files are left.
	Boot string `json:"boot"`
	// Ends with the process that holds the owner lock.
	Attached bool `json:"attached"`
	// Directories that did not exist before, outermost first.
	MadeDirs []string `json:"made_dirs,omitempty"`
	Binary   string   `json:"binary"`
	// What lab-init runs in each node.
	Command []string `json:"command,omitempty"`
	// Where the default cluster's service answers; empty if the configuration was given.
	Service string `json:"service,omitempty"`

	Plan  plan         `json:"plan"`
	Nodes []nodeRecord `json:"nodes"` // as Plan.Nodes
	// As Plan.Arbiters.
	Arbiters []nodeRecord `json:"arbiters,omitempty"`
	// The cluster was given the coordination points.
	PointsAdded bool `json:"points_added,omitempty"`
}

// A nodeRecord is what changes of a node.
type nodeRecord struct {
	Init process `json:"init"`
	// Links whose port in the switch is off.
	Cut []int `json:"cut,omitempty"`
	// Nodes whose frames do not reach this one, by link.
	Blocked map[int][]string `json:"blocked,omitempty"`
	// Nothing passes its ports: it is paused as a whole machine.
	Silent bool `json:"silent,omitempty"`
	// Lock disks that it has lost.
	CutDisks []string `json:"cut_disks,omitempty"`
	Boots    int      `json:"boots"`
}

func recordFile(dir string) string { return filepath.Join(dir, "lab.json") }

// save writes lab.json so that it is never seen in part.
func (r *record) save() error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	path := recordFile(r.Plan.Dir)
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// errNoLab: there is no lab.json in the directory.
var errNoLab = absent("no lab")

func loadRecord(dir string) (*record, error) {
	b, err := os.ReadFile(recordFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", errNoLab, dir)
	}
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", recordFile(dir), err)
	}
	if r.Schema != recordSchema || len(r.Nodes) != len(r.Plan.Nodes) || len(r.Arbiters) != len(r.Plan.Arbiters) {
		return nil, fmt.Errorf("%s is not of this version (%q, not %q): remove the lab with the holdfast that made it, or by hand", recordFile(dir), r.Schema, recordSchema)
	}
	return &r, nil
}

// records of the machines, in their order.
func (r *record) records() []*nodeRecord {
	var out []*nodeRecord
	for i := range r.Nodes {
		out = append(out, &r.Nodes[i])
	}
	for i := range r.Arbiters {
		out = append(out, &r.Arbiters[i])
	}
	return out
}

// machine finds the plan and the record of a node or an arbiter.
func (r *record) machine(name string) (*nodePlan, *nodeRecord, error) {
	p, err := r.Plan.machine(name)
	if err != nil {
		return nil, nil, err
	}
	return p, r.records()[slices.Index(r.Plan.machines(), p)], nil
}
