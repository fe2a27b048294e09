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

var fileOnOffKind = kind{
	typ: &v1.ResourceType{
		Name: "FileOnOff", Operations: v1.Operations_OPERATIONS_ON_OFF, Bundled: true,
		Description: "A file that exists while the resource is online. For trying things out.",
		Attributes: []*v1.Attribute{
			{Name: "PathName", Kind: path, Required: required, Description: "Absolute path of the file."},
		},
		Limits: &v1.Limits{
			MonitorInterval: seconds(10), OfflineMonitorInterval: seconds(60), OnlineTimeout: seconds(30),
			OfflineTimeout: seconds(30), MonitorTimeout: seconds(30), CleanTimeout: seconds(30), OnlineWaitLimit: proto.Uint32(0),
		},
	},
	run: runFileOnOff,
}

func runFileOnOff(_ context.Context, _ *Host, c agent.Call) agent.Result {
	name := c.Attributes["PathName"]
	switch c.Entry {
	case agent.Online:
		f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return failed(err)
		}
		if err := f.Close(); err != nil {
			return failed(err)
		}
	case agent.Offline, agent.Clean:
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return failed(err)
		}
	case agent.Monitor:
		st, err := os.Stat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return found(false, false, fmt.Sprintf("%s does not exist", name))
		case err != nil:
			return failed(err)
		case st.IsDir():
			return failed(fmt.Errorf("%s is a directory", name))
		}
		return found(true, false, "")
	}
	return agent.Result{}
}
