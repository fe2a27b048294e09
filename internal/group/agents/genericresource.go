package agents

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

var signalAttributes = []*v1.Attribute{
	{Name: "Signal", Kind: text, Required: required, Description: "Name of the signal (generic_resource_name)."},
	{Name: "UpCriteria", Kind: text, Description: "Which values of an extended signal are up: one of == != < > <= >= and a number from 1 to 2147483647, such as \">= 10\" (generic_resource_up_criteria). Empty: the signal is simple, and says by itself whether it is up."},
	{Name: "UnknownIs", Kind: text, Default: "down", Words: []string{"down", "up", "unknown"}, Description: "What it means that the signal was never set here or has expired. unknown: nothing is concluded, and the state before that stays; a group that has not been online can't start anywhere then."},
	{Name: "MinimumDuration", Kind: span, Default: "0s", Description: "How long a change must last before it counts, in both directions."},
	{Name: "Hysteresis", Kind: whole, Default: "0", Description: "By how much a value must miss UpCriteria of < > <= >= to be down once it was up."},
	{Name: "NodeFailFast", Kind: flag, Default: "false", Description: "The node is reset when the package loses the signal (node_fail_fast_enabled)."},
}

var genericResourceKind = kind{
	typ: &v1.ResourceType{
		Name: "GenericResource", Operations: v1.Operations_OPERATIONS_ON_OFF, Bundled: true,
		Description: "A signal from outside that is evaluated during the start of a package (during_package_start): going online waits until the signal is up, and while it is online " +
			"the signal must stay up. Its loss is a fault after which this node is not used until an administrator enables it. A change is noticed at once.",
		Attributes: signalAttributes,
		Limits: &v1.Limits{
			MonitorInterval: seconds(10), OfflineMonitorInterval: seconds(60), OnlineTimeout: seconds(300), OfflineTimeout: seconds(30),
			MonitorTimeout: seconds(30), CleanTimeout: seconds(30), OnlineWaitLimit: proto.Uint32(0),
		},
	},
	notes: "For generic_resource_evaluation_type during_package_start: let it require the service that sets the signal.",
	check: checkSignal,
	run:   runGenericResource,
}

var persistentGenericResourceKind = kind{
	typ: &v1.ResourceType{
		Name: "PersistentGenericResource", Operations: v1.Operations_OPERATIONS_NONE, Bundled: true,
		Description: "A signal from outside that is evaluated before the start of a package (before_package_start): the package runs only where the signal is up. " +
			"Its loss is a fault that passes when the signal is up again. A change is noticed at once.",
		Attributes: signalAttributes,
		Limits:     &v1.Limits{MonitorInterval: seconds(10), OfflineMonitorInterval: seconds(10), MonitorTimeout: seconds(30)},
	},
	notes: "For generic_resource_evaluation_type before_package_start.",
	check: checkSignal,
	run: func(_ context.Context, h *Host, c agent.Call) agent.Result {
		l, err := listenerOf(c.Attributes)
		if err != nil {
			return failed(err)
		}
		if c.Entry != agent.Monitor {
			return agent.Result{}
		}
		return hear(h, c, l, v1.Verdict_VERDICT_UNSPECIFIED)
	},
}

func checkSignal(a map[string]string) []error {
	var errs []error
	c, err := parseCriteria(a["UpCriteria"])
	if err != nil {
		errs = append(errs, faultOf("UpCriteria", "%w", err))
	}
	switch margin, _ := strconv.ParseInt(a["Hysteresis"], 10, 64); {
	case margin < 0 || margin > math.MaxInt32:
		errs = append(errs, faultOf("Hysteresis", "%d is not between 0 and %d", margin, math.MaxInt32))
	case margin > 0 && err == nil && !c.ordered():
		errs = append(errs, faultOf("Hysteresis", "it needs UpCriteria with one of < > <= >="))
	}
	return errs
}

func listenerOf(a map[string]string) (listener, error) {
	if errs := checkSignal(a); len(errs) > 0 {
		return listener{}, errors.Join(errs...)
	}
	c, _ := parseCriteria(a["UpCriteria"])
	margin, _ := strconv.ParseInt(a["Hysteresis"], 10, 64)
	return listener{signal: a["Signal"], criteria: c, margin: margin, patience: duration(a["MinimumDuration"])}, nil
}

// hear is a monitor; loss is the verdict on a signal that is not up.
func hear(h *Host, c agent.Call, l listener, loss v1.Verdict) agent.Result {
	is, _ := h.signals.listen(key{c.Group, c.Resource}, l, c.Watch)
	up, message := judge(is, c.Attributes)
	r := found(up == opinionUp, c.Watch, message)
	switch up {
	case opinionUnknown:
		r.State = v1.ResourceState_RESOURCE_STATE_UNKNOWN
	case opinionDown:
		r.Verdict = loss
		if c.Attributes["NodeFailFast"] == "true" {
			r.Verdict = v1.Verdict_VERDICT_RESET
		}
	}
	return r
}

// judge an opinion by what unknown is to mean.
func judge(is opinion, a map[string]string) (opinion, string) {
	name := a["Signal"]
	switch is {
	case opinionUp:
		return opinionUp, ""
	case opinionDown:
		if a["UpCriteria"] != "" {
			return opinionDown, fmt.Sprintf("signal %s is not %s", name, a["UpCriteria"])
		}
		return opinionDown, fmt.Sprintf("signal %s is down", name)
	}
	message := fmt.Sprintf("signal %s is unknown on this node: it was never set, or has expired", name)
	switch a["UnknownIs"] {
	case "up":
		return opinionUp, message
	case "unknown":
		return opinionUnknown, message
	}
	return opinionDown, message
}

func runGenericResource(ctx context.Context, h *Host, c agent.Call) agent.Result {
	l, err := listenerOf(c.Attributes)
	if err != nil && (c.Entry == agent.Monitor || c.Entry == agent.Online) {
		return failed(err)
	}
	err = nil
	p := place{h: h, group: c.Group, resource: c.Resource}
	switch c.Entry {
	case agent.Monitor:
		if p.record().Stage != started {
			h.signals.forget(p.key())
			return found(false, false, "")
		}
		return hear(h, c, l, v1.Verdict_VERDICT_NOT_HERE)
	case agent.Online:
		for {
			is, changed := h.signals.listen(p.key(), l, false)
			up, message := judge(is, c.Attributes)
			if up == opinionUp {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return failed(errors.New(message))
			}
		}
		err = p.save(record{Stage: started})
	case agent.Offline, agent.Clean:
		h.signals.forget(p.key())
		err = p.forgetRecord()
	}
	if err != nil {
		return failed(err)
	}
	return agent.Result{}
}
