package setup

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/config"
)

// folder of files by name; those that end in "/" are directories.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := dir + "/" + name
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "/") {
			continue
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func arbiterToken() string { return arbiter.Token{Address: "192.0.2.1:7947"}.String() }

func joinToken(t *testing.T, node string) string {
	t.Helper()
	token, err := peer.Token(&peerpb.Invitation{Id: "1", Node: node, Secret: []byte("x"), Addresses: []string{"10.0.1.1:7946"}, Authority: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestExampleHasNoFaults(t *testing.T) {
	dir := folder(t, map[string]string{"arb1.token": arbiterToken()})
	text := strings.ReplaceAll(Example, "/root/", dir+"/") + "state-dir: state\n"
	p, faults := Read("example", []byte(text), dir, "elsewhere").Check(Known{})
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	if p.GetNode() != "n1" || len(p.Others()) != 1 || len(p.NewPoints) != 1 || p.NewPoints[0].GetArbiterToken() != arbiterToken() || len(p.Users) != 1 {
		t.Errorf("plan: %v", p)
	}
	if p.GetStateDir() != filepath.Join(dir, "state") || p.GetRunDir() != "/run/holdfast" || p.Waiting() != defaultWait {
		t.Errorf("defaults: %v", p)
	}
}

const (
	two = "nodes:\n- {name: n1, links: [{name: a, address: 10.0.1.1}]}\n- {name: n2, links: [{name: a, address: 10.0.1.2}]}\n"
	// first four lines are two nodes and the cluster's name.
	first = two + "cluster: shop\ninit: true\ntokens-into: tokens\nstate-dir: state\n"
	other = "node: n2\nstate-dir: state\n"
)

func TestFaults(t *testing.T) {
	const identity = `{"format":1,"node":"n1","cluster_name":"shop","cluster_uuid":"00"}`
	for _, c := range []struct {
		name, text string
		files      map[string]string
		host       string
		// Each fault: "line: part of it"; in another file: "file:line: part of it".
		want []string
	}{
		{name: "right", text: first},
		{name: "right, one node", text: "nodes: [{name: n1, links: [{name: a, address: 10.0.1.1}]}]\ncluster: shop\ninit: true\nstate-dir: state\n"},
		{name: "right, other", text: other + "join: {token-file: t}\n", files: map[string]string{"t": joinToken(t, "n2")}},
		{name: "right, joined already", text: "state-dir: state\njoin: {token-file: gone}\n", files: map[string]string{"state/identity.json": identity}},
		{name: "empty", text: "# nothing\n", want: []string{"1: says nothing; holdfast setup --example"}},
		{name: "no YAML", text: "a: b: c\n", want: []string{"1: is not YAML"}},
		{name: "two documents", text: first + "---\na: b\n", want: []string{"9: there is a second document"}},
		{name: "nothing that counts", text: "state-dir: state\n", want: []string{"1: cluster: is missing; add cluster: NAME", "1: init: it is not said how this node comes in; write init: true"}},
		{name: "no nodes", text: "cluster: shop\ninit: true\nstate-dir: state\n", want: []string{"1: nodes: are missing"}},
		{name: "keys", text: first + "tokensinto: x\nrolls: []\n", want: []string{"8: tokensinto: there is no such key; did you mean tokens-into?", "9: rolls: there is no such key"}},
		{name: "values", text: strings.Replace(first, "init: true", "init: yes please", 1) + "wait: 5\n", want: []string{`5: init: is the text "yes please", but must be true or false`, `8: wait: "5" is not a duration; write 5s`}},
		{name: "wait", text: first + "wait: 1ms\n", want: []string{"8: wait: 1ms is out of range; write 1s to 24h"}},
		{name: "name of the cluster", text: strings.Replace(first, "shop", "my shop", 1), want: []string{`4: cluster, name: "my shop" has ' ' in it`}},
		{name: "addresses", text: strings.Replace(first, "10.0.1.2", "10.0.1.1", 1), want: []string{"3: node n2, link a, address: "}},
		{name: "another machine", text: first, host: "n3.example.org", want: []string{`1: node: this machine is "n3", which is none of the nodes; write node: NAME`}},
		{name: "init and join", text: first + "join: {token-file: t}\n", want: []string{"8: join: does not go with init: true"}},
		{name: "how the others", text: strings.Replace(first, "tokens-into: tokens\n", "", 1), want: []string{"5: init: it is not said how the other nodes come in; add tokens-into"}},
		{name: "both ways", text: first + "directories-into: d\n", want: []string{"8: directories-into: does not go with tokens-into"}},
		{name: "a file in the way", text: first, files: map[string]string{"tokens": ""}, want: []string{"6: tokens-into: ", "is no directory"}},
		{name: "directories of before", text: strings.Replace(first, "tokens-into", "directories-into", 1), files: map[string]string{"tokens/n2/": ""}, want: []string{"6: directories-into: ", "exists already, but this node is in no cluster"}},
		{name: "state of something else", text: first, files: map[string]string{"state/x": ""}, want: []string{"7: state-dir: ", "is not empty, and no node's state directory; move away"}},
		{name: "damaged state", text: first, files: map[string]string{"state/identity.json": "{"}, want: []string{"7: state-dir: ", "can't be read"}},
		{name: "state of another node", text: first + "node: n2\n", files: map[string]string{"state/identity.json": identity}, want: []string{"8: node: is n2, but the state directory"}},
		{name: "state of another cluster", text: strings.Replace(first, "shop", "shed", 1), files: map[string]string{"state/identity.json": identity}, want: []string{"4: cluster: is shed, but the state directory"}},
		{name: "tokens", text: other + "join: {token-file: t}\n", files: map[string]string{"t": "holdfast-join-1.AAAA"}, want: []string{"3: join.token-file: ", "make a new one on a member: holdfast node token n2"}},
		{name: "no token", text: other + "join: {token-file: t}\n", want: []string{"3: join.token-file: ", "no such file"}},
		{name: "a directory as token", text: other + "join: {token-file: t}\n", files: map[string]string{"t/": ""}, want: []string{"3: join.token-file: ", "is no file"}},
		{name: "no file", text: other + "join: {}\n", want: []string{"3: join.token-file: is missing"}},
		{name: "token of another", text: other + "join: {token-file: t}\n", files: map[string]string{"t": joinToken(t, "n3")}, want: []string{"3: join.token-file: is a token for n3, but this machine is n2"}},
		{name: "work of the first node", text: other + "join: {token-file: t}\nusers: [{name: a, role: guest}]\nconfiguration: c\n", files: map[string]string{"t": joinToken(t, "n2")},
			want: []string{"4: users: is done by the node with init: true; remove it here", "5: configuration: is done"}},
		{name: "points", text: first + "points:\n- {name: a, arbiter-token-file: t}\n- {name: b!, lock-disk: disk, paths: {n9: /x, n2: y}}\n",
			files: map[string]string{"t": "hfa-x"},
			want: []string{"9: points: are 2; write one or three", "9: point a, arbiter-token-file: ", "10: point b!, name: ", "10: point b!, lock-disk: \"disk\" is not absolute",
				`10: point b!, paths.n9: there is no node "n9"`, `10: point b!, paths.n2: "y" is not absolute`}},
		{name: "what a point is", text: first + "points:\n- {name: a}\n", want: []string{"9: point a: must be either an arbiter or a lock disk"}},
		{name: "a disk that is not there", text: first + "points:\n- {name: a, lock-disk: /dev/nowhere}\n", want: []string{"9: point a, lock-disk: stat /dev/nowhere"}},
		{name: "users", text: first + "users:\n- {name: root, role: guest}\n- {name: a b, role: king}\n- {name: c}\n- {name: d, role: guest, groups: [web]}\n",
			want: []string{"9: user root, name: root of a node", `10: user a b, role: "king" is none of its values`, `10: user a b, name: "a b" can't be`, "11: user c, role: is missing; write role: guest",
				`12: user d, groups[0]: there is no group "web"`}},
		{name: "configuration", text: first + "configuration: c.yaml\nwait: 1ms\n",
			files: map[string]string{"c.yaml": "kind: Group\nname: web\nsystemList: [n1, n9]\n---\nkind: Cluster\nname: shed\n---\nkind: Node\nname: n2\nlinks: [{name: a, address: 10.0.1.7}]\n"},
			want:  []string{"9: wait: ", "c.yaml:3: group web, systemList[1]: ", "c.yaml:6: cluster, name: is \"shed\", but this is cluster \"shop\"", "c.yaml:10: node n2, links: are others than in response"}},
		{name: "no configuration", text: first + "configuration: c.yaml\n", want: []string{"8: configuration: stat "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := folder(t, c.files)
			host := c.host
			if host == "" {
				host = "n1"
			}
			_, faults := Read("response", []byte(c.text), dir, host).Check(Known{})
			var got []string
			for _, f := range faults {
				if f.Line == 0 {
					t.Errorf("without a line: %s", f)
				}
				line := fmt.Sprintf("%d: ", f.Line)
				if f.File != "response" {
					line = fmt.Sprintf("%s:%d: ", filepath.Base(f.File), f.Line)
				}
				f.File, f.Line = "", 0
				got = append(got, line+f.String())
			}
			all, n := strings.Join(got, "\n"), 0
			for _, w := range c.want {
				if strings.Contains(w, ": ") && w[0] >= '0' && w[0] <= '9' || strings.HasPrefix(w, "c.yaml:") {
					n++
				}
				if !strings.Contains(all, w) {
					t.Errorf("no fault %q", w)
				}
			}
			if n != len(got) {
				t.Errorf("%d faults, not %d:\n%s", len(got), n, all)
			}
		})
	}
}

// What is there already needs no token any more (S2).
func TestPointsThatAreThere(t *testing.T) {
	f := func() *File {
		return Read("response", []byte(first+"points: [{name: arb1, arbiter-token-file: gone}]\n"), t.TempDir(), "n1")
	}
	if _, faults := f().Check(Known{}); len(faults) != 1 {
		t.Errorf("without a token: %v", faults)
	}
	p, faults := f().Check(Known{Points: []string{"arb1"}})
	if len(faults) > 0 || len(p.NewPoints) > 0 {
		t.Error(faults)
	}
}

// No text makes it panic, and each fault has a line.
func FuzzRead(f *testing.F) {
	f.Add(Example)
	f.Add(first + "points: [{name: a, paths: {x: y}}]\nusers: [{name: u, groups: [g]}]\n")
	f.Add("join: [1]\nnodes: {a: b}\nwait: {}\nstart: 7\n")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "/") { // it may look at any file
			return
		}
		_, faults := Read("response", []byte(text), t.TempDir(), "n1").Check(Known{})
		for _, x := range faults {
			if x.File == "" {
				t.Errorf("%+v", config.Fault(x))
			}
		}
	})
}
