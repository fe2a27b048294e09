package agents

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// The types whose resources are a file, for trying things out. They differ in what may be done, and in ElifNone the file
// has to be absent.
var (
	fileOnOffKind = fileKind("FileOnOff", v1.Operations_OPERATIONS_ON_OFF,
		"A file that exists while the resource is online. For trying things out.", runFile(true))
	fileOnOnlyKind = fileKind("FileOnOnly", v1.Operations_OPERATIONS_ON_ONLY,
		"A file that is made when the resource goes online, and stays when its group goes offline. For trying things out.", runFile(true))
	fileNoneKind = fileKind("FileNone", v1.Operations_OPERATIONS_NONE,
		"A file that is only looked at: online while it exists. For trying things out.", runFile(true))
	elifNoneKind = fileKind("ElifNone", v1.Operations_OPERATIONS_NONE,
		"A file that is only looked at: online while it does not exist. For trying things out.", runFile(false))
)

func fileKind(name string, operations v1.Operations, description string, run func(context.Context, *Host, agent.Call) agent.Result) kind {
	limits := &v1.Limits{MonitorInterval: seconds(10), OfflineMonitorInterval: seconds(60), MonitorTimeout: seconds(30)}
	if operations != v1.Operations_OPERATIONS_NONE {
		limits.OnlineTimeout, limits.OfflineTimeout, limits.CleanTimeout, limits.OnlineWaitLimit = seconds(30), seconds(30), seconds(30), proto.Uint32(0)
	}
	return kind{
		typ: &v1.ResourceType{
			Name: name, Operations: operations, Bundled: true, Description: description + " Its coming and going are noticed at once.",
			Attributes: []*v1.Attribute{{Name: "PathName", Kind: path, Required: required, Description: "Absolute path of the file."}},
			Limits:     limits,
		},
		run: run,
	}
}

func runFile(online bool) func(context.Context, *Host, agent.Call) agent.Result {
	return func(_ context.Context, h *Host, c agent.Call) agent.Result {
		name := c.Attributes["PathName"]
		k := key{c.Group, c.Resource}
		switch c.Entry {
		case agent.Online:
			f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o644)
			if err == nil {
				err = f.Close()
			}
			if err != nil {
				return failed(err)
			}
		case agent.Offline, agent.Clean:
			if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return failed(err)
			}
		case agent.Monitor:
			watched := false
			if c.Watch {
				watched = h.files.set(k, name)
			} else {
				h.files.forget(k)
			}
			st, err := os.Stat(name)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return found(!online, watched, fmt.Sprintf("%s does not exist", name))
			case err != nil:
				return failed(err)
			case st.IsDir():
				return failed(fmt.Errorf("%s is a directory", name))
			case online:
				return found(true, watched, "")
			}
			return found(false, watched, fmt.Sprintf("%s exists", name))
		}
		return agent.Result{}
	}
}
