package api

import (
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// typeFiles finds what is missing of the programs of types that a change defines or changes, as far as this node has
// them. Types that stay as they are are not asked: what happens to their files is no reason to refuse other changes.
func typeFiles(old, cfg *v1.Configuration) (out []config.Fault) {
	before := map[string]*v1.ResourceType{}
	for _, t := range old.GetTypes() {
		before[t.GetName()] = t
	}
	for _, t := range cfg.GetTypes() {
		if t.GetBundled() || proto.Equal(t, before[t.GetName()]) {
			continue
		}
		at := protoyaml.Object("type", t.GetName())
		fix := ""
		if t.GetScript() != nil {
			at = at.Field("script").Field("directory")
			fix = "put it there on every node, or name another directory"
		} else {
			at = at.Field("supportedActions")
		}
		for _, err := range agents.CheckType(t) {
			out = append(out, config.Fault{Path: at.String(), Problem: err.Error(), Fix: fix})
		}
	}
	return out
}
