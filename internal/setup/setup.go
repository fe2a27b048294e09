// Package setup reads and judges response files: what an unattended set-up of
// a node shall do. It carries nothing out (holdfast setup does, in package
// cli) and changes nothing on the machine, which it looks at: the state
// directory and the files that a response names.
//
//	S1  all faults are found in one go, each with file, line, and what to write instead
//	S2  what is done already needs nothing: a token that was used may be gone
//	S3  a state directory of another node or cluster is a fault, never a thing to replace
//
// The caller owes it what a running node says, if one runs ([Known]).
package setup

import (
	_ "embed"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
	"github.com/holdfast-ha/holdfast/internal/setup/setuppb"
)

// Example is a response file that explains itself.
//
//go:embed example.yaml
var Example string

const (
	defaultStateDir = "/var/lib/holdfast"
	defaultRunDir   = "/run/holdfast"
	defaultWait     = 2 * time.Minute
	maxWait         = 24 * time.Hour
	// TokenSuffix of the file with a node's token.
	TokenSuffix = ".token"
)

// A File is a response file that was read, with whatever faults it has.
type File struct {
	// As far as it could be read. Paths are absolute, and what was left out is filled in.
	Response *setuppb.Response
	// Own identity that is there already, nil: none.
	Own *Own

	name string
	doc  protoyaml.Document
	dec  protoyaml.Decoder
	// unread: there is no document to judge.
	unread bool
}

// Own identity of this machine, from its state directory.
type Own struct {
	Node        string `json:"node"`
	ClusterName string `json:"cluster_name"`
}

// Known is what a running node says. The zero value: none runs.
type Known struct {
	Configuration *v1.Configuration
	// Points by name.
	Points []string
}

// A Plan is what is to be done.
type Plan struct {
	*setuppb.Response
	Own *Own
	// JoinToken of a machine that has to join.
	JoinToken string
	// NewPoints are those that the cluster does not have.
	NewPoints []*v1.PointSpec
	Users     []*v1.User
	// Documents of the configuration file; nil: none.
	Documents *config.Documents
}

// Self is this node as the response names it, nil if it does not.
func (p *Plan) Self() *v1.Node { return nodeOf(p.Response, p.GetNode()) }

// Others are the other nodes of the response.
func (p *Plan) Others() []*v1.Node { return others(p.Response) }

// Defaults says whether both directories are where the unit of systemd has them.
func (p *Plan) Defaults() bool {
	return p.GetStateDir() == defaultStateDir && p.GetRunDir() == defaultRunDir
}

// Waiting is how long to wait for what takes its time.
func (p *Plan) Waiting() time.Duration {
	if p.GetWait() == nil {
		return defaultWait
	}
	return p.GetWait().AsDuration()
}

func nodeOf(r *setuppb.Response, name string) *v1.Node {
	for _, n := range r.GetNodes() {
		if n.GetName() == name {
			return n
		}
	}
	return nil
}

func others(r *setuppb.Response) []*v1.Node {
	return slices.DeleteFunc(slices.Clone(r.GetNodes()), func(n *v1.Node) bool { return n.GetName() == r.GetNode() })
}

// Read a response file. dir is where its relative paths start, hostName what
// this machine is called.
func Read(name string, text []byte, dir, hostName string) *File {
	f := &File{name: name, Response: &setuppb.Response{}}
	docs := f.dec.Split(name, text)
	switch {
	case len(docs) == 0:
		f.unread = true
		f.fill(dir, hostName)
		if !f.dec.Lost() {
			f.dec.Add(config.Fault{File: name, Line: 1, Column: 1, Problem: "says nothing", Fix: "holdfast setup --example prints what it can say"})
		}
		return f
	case len(docs) > 1:
		f.dec.Add(docs[1].Fault("", config.Fault{Problem: "there is a second document", Fix: "write one response file per node, and the cluster's objects into the file that configuration names"}))
	}
	f.doc = docs[0]
	f.dec.Decode(f.doc, f.Response, protoyaml.Path{})
	f.fill(dir, hostName)
	f.own()
	return f
}

func (f *File) fill(dir, hostName string) {
	r := f.Response
	for _, p := range []*string{&r.TokensInto, &r.DirectoriesInto, &r.Configuration, &r.StateDir, &r.RunDir} {
		*p = below(dir, *p)
	}
	if r.StateDir == "" {
		r.StateDir = defaultStateDir
	}
	if r.RunDir == "" {
		r.RunDir = defaultRunDir
	}
	if r.Join != nil {
		r.Join.TokenFile = below(dir, r.Join.TokenFile)
	}
	for _, p := range r.Points {
		p.ArbiterTokenFile = below(dir, p.ArbiterTokenFile)
	}
	if r.Node == "" {
		r.Node = hostName
		if short, _, _ := strings.Cut(hostName, "."); nodeOf(r, hostName) == nil {
			r.Node = short
		}
	}
}

func below(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// own looks who this machine is already. It takes no more than names from
// identity.json (docs/formats/statedir.md): the daemon checks the rest.
func (f *File) own() {
	dir := f.Response.GetStateDir()
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(list) == 0 {
		return
	}
	var raw []byte
	if err == nil {
		raw, err = os.ReadFile(filepath.Join(dir, "identity.json"))
	}
	o := &Own{}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.at("state-dir", dir+" is not empty, and no node's state directory", "move away what is there, or name another directory")
	case err != nil:
		f.at("state-dir", err.Error(), "")
	case json.Unmarshal(raw, o) != nil || o.Node == "":
		f.at("state-dir", filepath.Join(dir, "identity.json")+" can't be read: the directory is damaged", "move it away, and set the node up anew")
	default:
		f.Own = o
	}
}

// at reports a fault at a top-level key, or at the top where it is missing.
func (f *File) at(key, problem, fix string) {
	f.dec.Add(f.doc.Fault(key, config.Fault{Path: key, Problem: problem, Fix: fix}))
}

// in reports a fault inside.
func (f *File) in(p protoyaml.Path, problem, fix string) {
	f.dec.Add(config.Fault{Path: p.String(), Problem: problem, Fix: fix})
}
