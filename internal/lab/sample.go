package lab

import (
	"bytes"
	"embed"
	"fmt"
	"os/exec"
	"strings"
	"text/template"
)

// Samples are groups for the default cluster that show more than one web server.

//go:embed samples
var samples embed.FS

// A sample is what a lab runs instead of the default group.
type sample struct {
	file string
	// Resource agents of the Open Cluster Framework whose types it uses, as provider:agent.
	ocf []string
	// nginx is started by an agent that waits until it has gone into the background.
	daemon bool
}

var sampleNames = []string{"tiers", "tiers-ocf"}

var sampleOf = map[string]sample{
	"tiers":     {file: "tiers.yaml"},
	"tiers-ocf": {file: "tiers-ocf.yaml", ocf: []string{"heartbeat:IPaddr2", "heartbeat:anything", "heartbeat:nginx"}, daemon: true},
}

// sampleGroups returns the documents of a sample, and the files that it uses.
func sampleGroups(name, binary string, mode Mode, p *plan) (yaml string, files map[string]string, err error) {
	s, known := sampleOf[name]
	switch {
	case !known:
		return "", nil, bad("there is no sample %q: there are %s", name, strings.Join(sampleNames, ", "))
	case mode != Namespaces:
		return "", nil, bad("sample %s needs addresses of its own: run it as root", name)
	case nginxPath() == "":
		return "", nil, bad("sample %s needs nginx: apt-get install nginx-light", name)
	}
	nodes := make([]string, 0, len(p.Nodes))
	for _, n := range p.Nodes {
		nodes = append(nodes, n.Name)
	}
	facts := map[string]string{
		"Nodes": "[" + strings.Join(nodes, ", ") + "]", "Holdfast": binary, "Nginx": nginxPath(), "Dir": p.Dir,
		"Web": p.service().Addr().String(), "App": linkHost(mode, p.Number, 0, appHost).String(),
		"Daemon": map[bool]string{true: "on", false: "off"}[s.daemon],
	}
	types, err := ocfTypes(binary, s.ocf...)
	if err != nil {
		return "", nil, err
	}
	files = map[string]string{}
	fill := func(file string) (string, error) {
		t, err := template.ParseFS(samples, "samples/"+file)
		if err != nil {
			return "", err
		}
		var b bytes.Buffer
		err = t.Option("missingkey=error").Execute(&b, facts)
		return b.String(), err
	}
	if files["tiers-nginx.conf"], err = fill("tiers-nginx.conf"); err != nil {
		return "", nil, err
	}
	groups, err := fill(s.file)
	return types + "---\n" + groups, files, err
}

// ocfTypes are the documents of types of resource agents of the Open Cluster Framework.
func ocfTypes(binary string, agents ...string) (string, error) {
	var types strings.Builder
	for _, agent := range agents {
		out, err := exec.Command(binary, "type", "import-ocf", agent).CombinedOutput()
		if err != nil {
			return "", bad("the resource agent %s is needed (apt-get install resource-agents): %w\n%s", agent, err, out)
		}
		fmt.Fprintf(&types, "---\n%s", out)
	}
	return types.String(), nil
}
