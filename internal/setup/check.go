package setup

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer"
	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
	"github.com/holdfast-ha/holdfast/internal/setup/setuppb"
)

const (
	// maxToken and maxConfiguration are how much of a file is read.
	maxToken         = 64 << 10
	maxConfiguration = protoyaml.MaxBytes + 1
)

// userName as the API takes it.
var userName = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,31}$`)

// Check judges everything, and returns what is to be done or all faults (S1).
func (f *File) Check(known Known) (*Plan, []config.Fault) {
	p := &Plan{Response: f.Response, Own: f.Own}
	if f.unread {
		return nil, f.sorted()
	}
	base := f.nodes()
	f.how(p)
	if f.Response.GetInit() {
		merged := base
		if known.Configuration != nil {
			merged, _ = config.Merge(known.Configuration, withoutCluster(base), false)
		}
		more := f.configuration(p, merged)
		f.points(p, known)
		f.users(p, merged)
		if len(f.dec.Faults())+len(more) > 0 {
			return nil, slices.Concat(f.sorted(), more)
		}
	}
	if len(f.dec.Faults()) > 0 {
		return nil, f.sorted()
	}
	return p, nil
}

func (f *File) sorted() []config.Fault {
	out := slices.Clone(f.dec.Faults())
	for i := range out {
		if out[i].Line == 0 { // of the whole file
			out[i].Line, out[i].Column = 1, 1
		}
	}
	slices.SortStableFunc(out, func(a, b config.Fault) int { return a.Line - b.Line })
	return out
}

func withoutCluster(cfg *v1.Configuration) *v1.Configuration {
	out := proto.CloneOf(cfg)
	out.Cluster = nil
	return out
}

// nodes checks who there is, and returns the configuration that they make.
func (f *File) nodes() *v1.Configuration {
	r := f.Response
	cfg := &v1.Configuration{Cluster: &v1.Cluster{Name: r.GetCluster()}, Nodes: r.GetNodes()}
	for _, fault := range config.Check(cfg, agents.Types()) {
		switch {
		case len(r.GetNodes()) == 0 && fault.Path == "": // said below, where they are needed
		case strings.HasPrefix(fault.Path, "cluster") && r.GetCluster() == "" && (r.GetInit() || r.GetJoin() == nil):
			f.at("cluster", "is missing", "add cluster: NAME")
		case strings.HasPrefix(fault.Path, "cluster") && r.GetCluster() == "": // a token names it
		default:
			f.dec.Add(fault)
		}
	}
	switch {
	case len(r.GetNodes()) == 0 && r.GetInit():
		f.at("nodes", "are missing", "list all nodes with their links; holdfast setup --example shows how")
	case len(r.GetNodes()) > 0 && nodeOf(r, r.GetNode()) == nil:
		var names []string
		for _, n := range r.GetNodes() {
			names = append(names, n.GetName())
		}
		f.at("node", fmt.Sprintf("this machine is %q, which is none of the nodes", r.GetNode()), "write node: NAME with one of them; "+protoyaml.DidYouMean(r.GetNode(), names, "nodes"))
	}
	switch o := f.Own; {
	case o == nil:
	case o.Node != r.GetNode():
		f.at("node", fmt.Sprintf("is %s, but the state directory %s is that of node %s of cluster %s", r.GetNode(), r.GetStateDir(), o.Node, o.ClusterName),
			"write node: "+o.Node+", or move the directory away if this machine is in no cluster any more")
	case r.GetCluster() != "" && o.ClusterName != r.GetCluster():
		f.at("cluster", fmt.Sprintf("is %s, but the state directory %s is that of a node of cluster %s", r.GetCluster(), r.GetStateDir(), o.ClusterName),
			"write cluster: "+o.ClusterName+", or move the directory away if this machine is in no cluster any more")
	}
	return cfg
}

// how this node and the others come in.
func (f *File) how(p *Plan) {
	r := f.Response
	if d := r.GetWait(); d != nil && (d.AsDuration() < time.Second || d.AsDuration() > maxWait) {
		f.at("wait", protoyaml.Duration(d.AsDuration())+" is out of range", "write 1s to 24h")
	}
	into := map[string]string{"tokens-into": r.GetTokensInto(), "directories-into": r.GetDirectoriesInto()}
	switch {
	case r.GetInit() && r.GetJoin() != nil:
		f.at("join", "does not go with init: true", "keep init on the node that makes the cluster, and join on the others")
	case f.faulty(protoyaml.Path{}.Field("init")), f.faulty(protoyaml.Path{}.Field("join")): // it was said, somehow
	case !r.GetInit() && r.GetJoin() == nil:
		f.at("init", "it is not said how this node comes in", "write init: true on the first node, and join: {token-file: PATH} on the others")
	case r.GetJoin() != nil:
		f.join(p)
	case into["tokens-into"] != "" && into["directories-into"] != "":
		f.at("directories-into", "does not go with tokens-into", "keep one of them")
	case len(others(r)) > 0 && into["tokens-into"] == "" && into["directories-into"] == "":
		f.at("init", "it is not said how the other nodes come in", "add tokens-into: DIR, or directories-into: DIR for state directories that you copy")
	default:
		f.directories(into)
	}
}

// directories for the other nodes.
func (f *File) directories(into map[string]string) {
	for _, key := range []string{"tokens-into", "directories-into"} {
		dir := into[key]
		if dir == "" {
			continue
		}
		if len(f.Response.GetNodes()) == 1 {
			f.at(key, "there is no other node", "list it among the nodes, or remove this")
		}
		if info, err := os.Stat(dir); err == nil && !info.IsDir() {
			f.at(key, dir+" is no directory", "name another")
		}
		if dir == f.Response.GetStateDir() {
			f.at(key, "is the state directory of this node", "name another")
		}
		if key == "tokens-into" || f.Own != nil {
			continue
		}
		for _, n := range others(f.Response) {
			// Of a cluster that this node does not know: it may be somewhere already.
			if at := filepath.Join(dir, n.GetName()); n.GetName() != "" && exists(at) {
				f.at(key, at+" exists already, but this node is in no cluster", "move it away; if it was begun to be used, destroy that cluster first")
			}
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func (f *File) join(p *Plan) {
	r := f.Response
	for key, is := range map[string]bool{
		"tokens-into": r.GetTokensInto() != "", "directories-into": r.GetDirectoriesInto() != "", "points": len(r.GetPoints()) > 0,
		"users": len(r.GetUsers()) > 0, "configuration": r.GetConfiguration() != "",
	} {
		if is {
			f.at(key, "is done by the node with init: true", "remove it here")
		}
	}
	at := protoyaml.Path{}.Field("join").Field("token-file")
	if r.GetJoin().GetTokenFile() == "" {
		f.in(at, "is missing", "write join: {token-file: PATH} with a file that the first node has written, or holdfast node token has printed")
		return
	}
	if f.Own != nil { // S2
		return
	}
	token, err := readToken(r.GetJoin().GetTokenFile())
	if err != nil {
		f.in(at, err.Error(), "bring the token here, which the first node has written or holdfast node token prints there")
		return
	}
	inv, err := peer.ParseToken(token)
	switch {
	case err != nil:
		f.in(at, err.Error(), "make a new one on a member: holdfast node token "+r.GetNode())
	case inv.GetNode() != r.GetNode():
		f.in(at, fmt.Sprintf("is a token for %s, but this machine is %s", inv.GetNode(), r.GetNode()), "take that of "+r.GetNode()+", or write node: "+inv.GetNode())
	}
	p.JoinToken = token
}

func readToken(path string) (string, error) {
	raw, err := readSome(path, maxToken)
	return strings.TrimSpace(string(raw)), err
}

// configuration reads the file that is to be applied; its own faults are returned.
func (f *File) configuration(p *Plan, base *v1.Configuration) []config.Fault {
	name := f.Response.GetConfiguration()
	if name == "" {
		return nil
	}
	text, err := readSome(name, maxConfiguration)
	if err != nil {
		f.at("configuration", err.Error(), "name a file with documents")
		return nil
	}
	docs := config.Parse(config.File{Name: name, Text: text})
	p.Documents = docs
	types := agents.Types()
	inherited := config.Check(base, types, agents.Check)
	faults := slices.DeleteFunc(docs.Check(base, types, false, agents.Check), func(fault config.Fault) bool {
		return fault.Line == 0 && slices.ContainsFunc(inherited, func(i config.Fault) bool { return i.Path == fault.Path })
	})
	for _, n := range docs.Configuration().GetNodes() {
		own := nodeOf(f.Response, n.GetName())
		if own == nil || slices.EqualFunc(own.GetLinks(), n.GetLinks(), func(a, b *v1.Link) bool { return proto.Equal(a, b) }) {
			continue
		}
		faults = append(faults, docs.Locate([]config.Fault{{Path: protoyaml.Object("node", n.GetName()).Field("links").String(),
			Problem: "are others than in " + f.name, Fix: "write the same in both, or remove the node here"}})...)
	}
	return faults
}

func readSome(path string, most int64) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no file", path)
	case info.Size() > most:
		return nil, fmt.Errorf("%s has %d bytes, more than %d", path, info.Size(), most)
	}
	return os.ReadFile(path)
}

func (f *File) points(p *Plan, known Known) {
	r := f.Response
	if n := len(r.GetPoints()); n != 0 && n != 1 && n != 3 {
		f.at("points", fmt.Sprintf("are %d", n), "write one or three: of an even number the loss of half would be the loss of all")
	}
	for i, point := range r.GetPoints() {
		at := protoyaml.Object("point", point.GetName())
		if point.GetName() == "" {
			at = protoyaml.Object("point", fmt.Sprintf("number %d", i+1))
			f.in(at.Field("name"), "is missing", "give it a name")
		} else if !pointName.MatchString(point.GetName()) {
			f.in(at.Field("name"), fmt.Sprintf("%q is no name", point.GetName()), "use letters, digits, '-', '_' and '.', beginning with a letter or digit, at most 63 of them")
		}
		spec := &v1.PointSpec{Name: point.GetName()}
		switch {
		case (point.GetArbiterTokenFile() == "") == (point.GetLockDisk() == ""):
			f.in(at, "must be either an arbiter or a lock disk", "write arbiter-token-file: PATH, or lock-disk: PATH")
		case point.GetLockDisk() != "":
			spec.Kind = &v1.PointSpec_LockDisk{LockDisk: f.lockDisk(point, at)}
		case slices.Contains(known.Points, point.GetName()): // S2
		default:
			spec.Kind = &v1.PointSpec_ArbiterToken{ArbiterToken: f.arbiter(point, at)}
		}
		if point.GetLockDisk() == "" && len(point.GetPaths()) > 0 {
			f.in(at.Field("paths"), "go with a lock disk", "remove them")
		}
		if !slices.Contains(known.Points, point.GetName()) {
			p.NewPoints = append(p.NewPoints, spec)
		}
	}
}

var pointName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$`)

func (f *File) arbiter(point *setuppb.Point, at protoyaml.Path) string {
	at = at.Field("arbiter-token-file")
	token, err := readToken(point.GetArbiterTokenFile())
	if err != nil {
		f.in(at, err.Error(), "write there what holdfast arbiter token prints on the arbiter")
		return ""
	}
	if _, err := arbiter.ParseToken(token); err != nil {
		f.in(at, err.Error(), "make a new one on the arbiter: holdfast arbiter token")
	}
	return token
}

func (f *File) lockDisk(point *setuppb.Point, at protoyaml.Path) *v1.LockDiskSpec {
	absolute := func(p protoyaml.Path, path string) {
		if !filepath.IsAbs(path) {
			f.in(p, fmt.Sprintf("%q is not absolute", path), "write it from / on; names that stay the same after a restart are under /dev/disk/by-id")
		}
	}
	absolute(at.Field("lock-disk"), point.GetLockDisk())
	for node, path := range point.GetPaths() {
		absolute(at.Field("paths").Field(node), path)
		if nodeOf(f.Response, node) == nil {
			f.in(at.Field("paths").Field(node), fmt.Sprintf("there is no node %q", node), "name one of the nodes")
		}
	}
	own := point.GetLockDisk()
	if path := point.GetPaths()[f.Response.GetNode()]; path != "" {
		own = path
	}
	if _, err := os.Stat(own); err != nil && filepath.IsAbs(own) {
		f.in(at.Field("lock-disk"), err.Error(), "name a disk that this node has, and prepare it: holdfast lockdisk format")
	}
	return &v1.LockDiskSpec{Path: point.GetLockDisk(), Paths: point.GetPaths()}
}

func (f *File) users(p *Plan, base *v1.Configuration) {
	groups := slices.Clone(base.GetGroups())
	if p.Documents != nil {
		groups = append(groups, p.Documents.Configuration().GetGroups()...)
	}
	var known []string
	for _, g := range groups {
		known = append(known, g.GetName())
	}
	for i, u := range f.Response.GetUsers() {
		at := protoyaml.Object("user", u.GetName())
		switch {
		case u.GetName() == "":
			at = protoyaml.Object("user", fmt.Sprintf("number %d", i+1))
			f.in(at.Field("name"), "is missing", "give the name of a system user, or of the holder of a certificate")
		case u.GetName() == "root":
			f.in(at.Field("name"), "root of a node is an administrator always", "remove this user")
		case !userName.MatchString(u.GetName()):
			f.in(at.Field("name"), fmt.Sprintf("%q can't be a user's name", u.GetName()), "take up to 32 letters, digits, hyphens, underscores and dots")
		}
		if u.GetRole() == v1.Role_ROLE_UNSPECIFIED && !f.faulty(at.Field("role")) {
			f.in(at.Field("role"), "is missing", "write role: guest, operator or administrator")
		}
		user := &v1.User{Name: u.GetName()}
		for n, g := range u.GetGroups() {
			if !slices.Contains(known, g) {
				f.in(at.Field("groups").Index(n), fmt.Sprintf("there is no group %q", g), protoyaml.DidYouMean(g, known, "groups"))
			}
			if user.Groups == nil {
				user.Groups = map[string]v1.Role{}
			}
			user.Groups[g] = u.GetRole()
		}
		if len(u.GetGroups()) == 0 {
			user.Role = u.GetRole()
		}
		p.Users = append(p.Users, user)
	}
}

// faulty says whether there is a fault there already.
func (f *File) faulty(p protoyaml.Path) bool {
	return slices.ContainsFunc(f.dec.Faults(), func(x config.Fault) bool { return x.Path == p.String() })
}
