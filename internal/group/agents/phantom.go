package agents

import (
	"context"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

var phantomKind = kind{
	typ: &v1.ResourceType{
		Name: "Phantom", Operations: v1.Operations_OPERATIONS_ON_OFF, Bundled: true,
		Description: "Nothing but a state: online from the order to go online to the order to go offline. It gives a group a state that otherwise holds " +
			"only resources that are not brought online and offline, which do not count for the state of their group.",
		Limits: &v1.Limits{
			MonitorInterval: seconds(60), OfflineMonitorInterval: seconds(300), OnlineTimeout: seconds(30), OfflineTimeout: seconds(30),
			MonitorTimeout: seconds(30), CleanTimeout: seconds(30), OnlineWaitLimit: proto.Uint32(0),
		},
	},
	notes: "Its state survives a restart of the cluster's daemons and ends with a reboot. Use it in parallel groups of network cards, signals, proxies and the like.",
	run: func(_ context.Context, h *Host, c agent.Call) agent.Result {
		p := place{h: h, group: c.Group, resource: c.Resource}
		var err error
		switch c.Entry {
		case agent.Monitor:
			return found(p.record().Stage == started, false, "")
		case agent.Online:
			err = p.save(record{Stage: started})
		case agent.Offline, agent.Clean:
			err = p.forgetRecord()
		}
		if err != nil {
			return failed(err)
		}
		return agent.Result{}
	},
}
