//go:build linux

package clusterd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cli"
)

// everything below a directory: names, modes, times and contents.
func everything(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(&b, path, info.Mode(), info.ModTime().UnixNano())
		if info.Mode().IsRegular() {
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b.Write(raw)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func setupNode(t *testing.T, args ...string) (out string, status int) {
	var b strings.Builder
	status = cli.Main(t.Context(), cli.Streams{In: strings.NewReader(""), Out: &b, Err: &b}, append([]string{"setup"}, args...))
	return b.String(), status
}

// Two machines are set up by response files, an arbiter with them. Each run goes
// on where the one before ended; the last ones do nothing.
func TestSetup(t *testing.T) {
	nextNet.Lock()
	nextNet.n++
	third := nextNet.n % 250
	nextNet.Unlock()
	dir := t.TempDir()
	var nodes string
	var ms []*machine
	for i := range 2 {
		name := fmt.Sprintf("n%d-%d-%d", i+1, os.Getpid(), third)
		nodes += fmt.Sprintf("- name: %s\n  links:\n  - {name: a, address: 127.21.%d.%d}\n  - {name: b, address: 127.22.%d.%d}\n", name, third, i+1, third, i+1)
		m := &machine{t: t, name: name, state: filepath.Join(dir, name), run: filepath.Join(dir, "run-"+name), log: logFile(filepath.Join(t.TempDir(), "log"))}
		if err := os.Mkdir(m.run, 0o700); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.destroy)
		ms = append(ms, m)
	}
	n1, n2 := ms[0], ms[1]
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	own := func(m *machine) string {
		return fmt.Sprintf("cluster: shop\nnode: %s\nnodes:\n%sstate-dir: %s\nrun-dir: run-%s\nwait: 1m\n", m.name, nodes, m.name, m.name)
	}
	write("arb.token", newArbiter(t).token()+"\n")
	write("groups.yaml", fmt.Sprintf("kind: Cluster\nname: shop\ntimers: {peerinact: 2s}\n---\nkind: Group\nname: web\nsystemList: [%s, %s]\nresources:\n- {name: flag, type: FileOnOff, attributes: {PathName: %s}}\n",
		n1.name, n2.name, filepath.Join(t.TempDir(), "flag")))
	first := own(n1) + "init: true\ntokens-into: tokens\nconfiguration: groups.yaml\npoints: [{name: arb1, arbiter-token-file: arb.token}]\nusers:\n- {name: alice, role: operator, groups: [web]}\n- {name: bob, role: guest}\n"
	r1 := write("n1.yaml", first)
	r2 := write("n2.yaml", own(n2)+fmt.Sprintf("join: {token-file: tokens/%s.token}\n", n2.name))
	run := func(want int, parts []string, args ...string) string {
		t.Helper()
		out, status := setupNode(t, args...)
		if status != want {
			t.Fatalf("%v: status %d: %s", args, status, out)
		}
		for _, p := range parts {
			if !strings.Contains(out, p) {
				t.Errorf("%v: no %q in:\n%s", args, p, out)
			}
		}
		return out
	}

	// A file without faults, one with several, and a node without its token: nothing is changed.
	before := everything(t, dir)
	run(0, []string{"no faults; nothing was changed", "state directory, daemon, membership, configuration, users, tokens, other nodes, coordination points"}, "-r", r1, "--check")
	run(2, []string{"n2.yaml:", "join.token-file", "1 fault; nothing was changed"}, "-r", r2)
	if now := everything(t, dir); now != before {
		t.Errorf("something was changed:\n%s\nbefore:\n%s", now, before)
	}
	bad := write("bad.yaml", strings.Replace(first, "tokens-into", "token-into", 1)+"wait: 0s\n")
	before = everything(t, dir)
	run(2, []string{"there is no such key; did you mean tokens-into?", "is written twice", "faults; nothing was changed"}, "-r", bad)
	if now := everything(t, dir); now != before {
		t.Error("a file with faults has changed something")
	}

	// The state directory only; then without the other node, as far as that goes.
	late := write("late.yaml", first+"start: false\n")
	run(0, []string{"made cluster shop", "start it with: holdfast guard --state-dir " + n1.state, "left to the next run: membership, configuration, users, tokens, other nodes, coordination points"}, "-r", late)
	n1.start()
	run(0, []string{"is there: " + n1.name, "is a member", "applied: revision", "alice was added", "bob was added", n2.name + ".token: bring it to", "not members yet: " + n2.name, "left to the next run: coordination points"},
		"-r", r1, "--no-wait")
	token := filepath.Join(dir, "tokens", n2.name+".token")
	made, err := os.ReadFile(token)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(token); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the token's file: %v, %v", info.Mode(), err)
	}
	run(0, []string{"it runs", "there is nothing to change", "alice is there", "is there, good until"}, "-r", r1, "--no-wait")
	if again, err := os.ReadFile(token); err != nil || string(again) != string(made) {
		t.Errorf("another token was made: %v", err)
	}

	// The other one joins; somebody starts its daemon when it has its state.
	started := make(chan struct{})
	go func() {
		defer close(started)
		for {
			if _, err := os.Stat(filepath.Join(n2.state, "identity.json")); err == nil || t.Context().Err() != nil {
				return
			}
			<-time.After(20 * time.Millisecond)
		}
	}()
	joined := make(chan string, 1)
	go func() {
		out, status := setupNode(t, "-r", r2)
		joined <- fmt.Sprintf("%s(%d)", out, status)
	}()
	<-started
	n2.start()
	if out := <-joined; !strings.Contains(out, "joined: this machine is "+n2.name+" of cluster shop") || !strings.HasSuffix(out, n2.name+" is set up\n(0)") {
		t.Fatal(out)
	}
	run(0, []string{"all are members", "in use: arb1, with one vote together", n1.name + " is set up\n"}, "-r", r1)
	n1.until("a healthy cluster", healthy(2, ""))

	// Everything is done: tokens are not needed any more, and nothing is done twice.
	for _, name := range []string{token, filepath.Join(dir, "arb.token")} {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	audits := len(events(t, n1, "audit.done"))
	revision := n1.until("a healthy cluster", healthy(2, "")).GetConfigRevision()
	for r, name := range map[string]string{r1: n1.name, r2: n2.name} {
		if out := run(0, []string{name + " is set up; there was nothing to do"}, "-r", r); strings.Contains(out, "note:") {
			t.Errorf("a run with nothing to do has notes:\n%s", out)
		}
	}
	if n := len(events(t, n1, "audit.done")); n != audits {
		t.Errorf("%d changes were asked for by runs with nothing to do", n-audits)
	}
	if s := n1.until("a healthy cluster", healthy(2, "")); s.GetConfigRevision() != revision {
		t.Errorf("revision %d, was %d", s.GetConfigRevision(), revision)
	}
	if _, err := os.Stat(token); err == nil {
		t.Error("a token was made for a node that has joined")
	}
	if u := ask(t, n1.users().List, &v1.ListUsersRequest{}).GetUsers(); len(u) != 2 {
		t.Errorf("users %v", u)
	}
	// Changed links are not taken over in silence, and waiting has an end.
	moved := write("moved.yaml", strings.Replace(first, fmt.Sprintf("127.22.%d.2", third), fmt.Sprintf("127.22.%d.9", third), 1))
	run(0, []string{"note: " + n2.name + " is configured with other links"}, "-r", moved)
	ask(t, n1.nodes().Stop, &v1.StopNodeRequest{Node: n2.name})
	n2.gone()
	run(5, []string{"waited 1s in vain: the daemon does not answer yet [HF3004]", "repeat the command"}, "-r", write("brief.yaml", strings.Replace(own(n2), "wait: 1m", "wait: 1s", 1)+"join: {token-file: x}\n"))
	// The same file is no good for another cluster.
	run(2, []string{"is shed, but the state directory", "is that of a node of cluster shop"}, "-r", write("shed.yaml", strings.Replace(own(n2), "shop", "shed", 1)+"join: {token-file: x}\n"))
}

// A cluster that begins with all its nodes; their state directories are carried about.
func TestSetupWithDirectories(t *testing.T) {
	ms := cluster(t, nil, "n1", "n2") // names and addresses only
	dir := t.TempDir()
	text := "cluster: shop\nnodes:\n"
	like := *ms["n1"]
	for _, short := range []string{"n1", "n2"} {
		_, n := another(t, &like, short)
		text += "- name: " + n.GetName() + "\n  links:\n"
		for _, l := range n.GetLinks() {
			text += fmt.Sprintf("  - {name: %s, address: %q}\n", l.GetName(), l.GetAddress())
		}
		m := ms[short]
		m.state = filepath.Join(dir, short)
		if short == "n2" {
			m.state = filepath.Join(dir, "others", m.name)
		}
	}
	r := filepath.Join(dir, "n1.yaml")
	text += "init: true\nstart: false\ndirectories-into: others\nstate-dir: n1\nnode: " + ms["n1"].name + "\nrun-dir: " + ms["n1"].run + "\n"
	if err := os.WriteFile(r, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, status := setupNode(t, "-r", r); status != 0 || !strings.Contains(out, "move it to "+ms["n2"].name) {
		t.Fatal(status, out)
	}
	for _, m := range ms {
		m.start()
	}
	ms["n1"].until("a healthy cluster", healthy(2, ""))
	if out, status := setupNode(t, "-r", r); status != 0 || !strings.Contains(out, "is set up; there was nothing to do") {
		t.Fatal(status, out)
	}
	ms["n2"].until("a healthy cluster", healthy(2, ""))
}
