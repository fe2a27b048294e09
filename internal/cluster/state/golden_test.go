package state

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

var rewrite = flag.Bool("rewrite", false, "rewrite testdata/golden.txt")

// TestGoldenBytes: what older versions have stored is read, and stored the
// same way, for ever. A new kind of command joins the file; a changed line is
// a broken format.
func TestGoldenBytes(t *testing.T) {
	s := three(t)
	commands := []*pb.Command{
		{Change: &pb.Command_Configure{Configure: &pb.Configure{BaseRevision: 3, Configuration: &v1.Configuration{Cluster: &v1.Cluster{Name: "c"}}}}},
		{Change: &pb.Command_GuardStarted{GuardStarted: &pb.GuardStarted{Node: "n1", RaftId: 1, GuardIncarnation: 2, Rebooted: true}}},
		evict(s, time.Minute, "n3", statement(s, "n1", "n3", time.Second)),
		{Change: &pb.Command_Stays{Stays: &pb.Stays{Node: "n1", RaftId: 1}}},
		{Change: &pb.Command_Leave{Leave: &pb.Leave{BaseEpoch: 1, Node: "n1", ResignedRaftId: 1}}},
		{Change: &pb.Command_Join{Join: &pb.Join{Node: "n1", RaftId: 4, GuardIncarnation: 2, EndedRaftId: 1}}},
		{Change: &pb.Command_Promote{Promote: &pb.Promote{BaseEpoch: 1, Node: "n1", RaftId: 4}}},
		{Change: &pb.Command_Proven{Proven: &pb.Proven{Node: "n1", RaftId: 1, Proof: pb.Proof_PROOF_TIME}}},
		{Change: &pb.Command_Report{Report: &pb.Report{Node: "n1", RaftId: 1, Groups: []*pb.GroupReport{{Group: "web", Intent: 5, Resources: map[string]*v1.ResourceStatus{
			"file": {State: v1.ResourceState_RESOURCE_STATE_ONLINE, Message: "m"}}}}}}},
		{Change: &pb.Command_Plan{Plan: &pb.Plan{BasePlanRevision: 9, Orders: []*pb.Order{{Group: "web", Node: "n1", Want: v1.Want_WANT_ONLINE}},
			Decisions: []*v1.Decision{{Group: "web", Action: "a", Reasons: []string{"r"}}}}}},
		{Change: &pb.Command_Operate{Operate: &pb.Operate{Operation: &v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_GROUP_SWITCH, Group: "web", Node: "n2"}}}},
		{Change: &pb.Command_SetFrozen{SetFrozen: &pb.SetFrozen{Group: "web", Frozen: true}}},
		{Change: &pb.Command_Clear{Clear: &pb.Clear{Group: "web", Resource: "file", Node: "n1"}}},
		{Change: &pb.Command_Flush{Flush: &pb.Flush{Group: "web", Node: "n1"}}},
		{Change: &pb.Command_Probe{Probe: &pb.Probe{Group: "web", Resource: "file", Node: "n1"}}},
		{Change: &pb.Command_AnnounceSilence{AnnounceSilence: &pb.AnnounceSilence{Node: "n1", RaftId: 1, Length: durationpb.New(time.Second)}}},
		{Change: &pb.Command_SilenceOver{SilenceOver: &pb.SilenceOver{Node: "n1", Number: 1}}},
		{Change: &pb.Command_TimersSettled{TimersSettled: &pb.TimersSettled{ConfigRevision: 2}}},
		{Change: &pb.Command_ClusterStarted{ClusterStarted: &pb.ClusterStarted{Node: "n1", RaftId: 1, GuardIncarnation: 1}}},
		{Change: &pb.Command_WantPoints{WantPoints: &pb.WantPoints{BaseRaftId: 4, Points: []*v1.CoordinationPoint{{Name: "p"}}}}},
		{Change: &pb.Command_Steady{Steady: &pb.Steady{Node: "n1", RaftId: 5}}},
		{Change: &pb.Command_SetPoints{SetPoints: &pb.SetPoints{BaseEpoch: 1, RaftId: 5}}},
		{Change: &pb.Command_Note{Note: &pb.Note{Events: []*v1.Event{{Code: "c", Message: "m"}}}}},
		{Change: &pb.Command_Invite{Invite: &pb.Invite{Invitation: &pb.Invitation{Id: "i", Node: &v1.Node{Name: "n4"}, SecretHash: []byte{1}, ExpiresMs: 5}}}},
		{Change: &pb.Command_Enroll{Enroll: &pb.Enroll{Id: "i", Key: []byte{2}}}},
		{Change: &pb.Command_Withdraw{Withdraw: &pb.Withdraw{Id: "i"}}},
		{Change: &pb.Command_RemoveNode{RemoveNode: &pb.RemoveNode{Node: "n3", FromGroups: true}}},
		{Change: &pb.Command_SetUser{SetUser: &pb.SetUser{User: &v1.User{Name: "alice", Role: v1.Role_ROLE_GUEST, Groups: map[string]v1.Role{"web": v1.Role_ROLE_OPERATOR}}}}},
		{Change: &pb.Command_DeleteUser{DeleteUser: &pb.DeleteUser{Name: "alice"}}, Audit: &pb.Audit{Who: "root", From: "n1", Procedure: "UserService/Delete", Object: "user alice"}},
		{Change: &pb.Command_Stand{Stand: &pb.Stand{Node: "n1", Standing: &pb.Standing{RaftId: 1, ProtocolMin: 1, ProtocolMax: 2, Version: "v", HeartbeatAccepts: 2, HeartbeatSends: 1,
			AuthorityTrusts: 1, AuthorityUses: 1, CertificateRound: 3, CertificateEndsMs: 4}}}},
		{Change: &pb.Command_Rotate{Rotate: &pb.Rotate{What: pb.Rotate_WHAT_AUTHORITY, Node: "n1", Next: &pb.Secret{Generation: 2, Fingerprint: []byte{3}, Certificate: []byte{4}}}}},
		{Change: &pb.Command_Destroy{Destroy: &pb.Destroy{Name: "c"}}},
		{Change: &pb.Command_FenceStarted{FenceStarted: &pb.FenceStarted{Node: "n1", RaftId: 1, By: "n2", ByRaftId: 2}}},
		{Change: &pb.Command_FenceDone{FenceDone: &pb.FenceDone{Number: 1, Result: v1.FenceResult_FENCE_RESULT_OFF, Level: 2, Message: "m"}}},
		{Change: &pb.Command_ConfirmDown{ConfirmDown: &pb.ConfirmDown{Node: "n1", RaftId: 1, By: "root"}}},
		{Change: &pb.Command_TriggerDone{TriggerDone: &pb.TriggerDone{Number: 1, Node: "n1", RaftId: 2, ExitStatus: -1, Message: "m"}}},
		{Change: &pb.Command_Notified{Notified: &pb.Notified{Notifier: "mail", Event: 7}}},
		{Change: &pb.Command_SetSignal{SetSignal: &pb.SetSignal{Name: "s", Node: "n1", Value: &pb.SignalValue{State: v1.SignalState_SIGNAL_STATE_UP,
			Value: 3, Source: "root", SetMs: 4, TimeToLive: durationpb.New(time.Minute)}}}},
		{Change: &pb.Command_SetLoad{SetLoad: &pb.SetLoad{Node: "n1", Load: map[string]int64{"cpu": 5}}}},
		{Change: &pb.Command_Enable{Enable: &pb.Enable{Group: "web", Node: "n1", Disabled: "d", AutoEnable: true}}},
		{Change: &pb.Command_SetSwitching{SetSwitching: &pb.SetSwitching{Group: "web", Off: "root did"}}},
		{Change: &pb.Command_ClearAdminWait{ClearAdminWait: &pb.ClearAdminWait{Group: "web", Resource: "app", Node: "n1", Fault: true}}},
		{Change: &pb.Command_SetMaintenance{SetMaintenance: &pb.SetMaintenance{Group: "web", Node: "n1"}}},
		{Change: &pb.Command_OperationDone{OperationDone: &pb.OperationDone{Id: 1, Node: "n1", RaftId: 2, Failed: true, Message: "m"}}},
	}
	// Fields that came later: commands without them are stored as before.
	more := []*pb.Command{
		{Change: &pb.Command_Plan{Plan: &pb.Plan{BasePlanRevision: 9, ClockMs: 5000, Triggers: []*pb.TriggerRun{{Trigger: "preonline", Node: "n1", Group: "web", Facts: map[string]string{"why": "auto"},
			Program: "/p", Timeout: durationpb.New(time.Minute), Blocking: true, ClockMs: 4000}}, TriggersSeen: []uint64{3, 4},
			GroupChanges: []*pb.GroupChange{{Group: "web", Instance: "n1", Book: &pb.Instance{Active: "n1"}, Nodes: []string{"n1"}, Faulted: []string{"n1"}, NewTrigger: 1}},
			Places:       []*pb.PlaceChange{{Group: "web", Node: "n1", Disabled: "d", AutoDisabled: "a"}}, Flags: []*pb.GroupFlags{{Group: "web", SwitchingOff: "s", Unfreeze: true}},
			Resets: map[string]string{"n1": "r"}, Clears: []*pb.Clear{{Group: "web"}}, Loads: []*pb.LoadChange{{Node: "n1", SinceMs: 6, Warned: true}}, NodesUnfrozen: []string{"n2"}}}},
		{Change: &pb.Command_Join{Join: &pb.Join{Node: "n1", RaftId: 4, GuardIncarnation: 2, EndedRaftId: 1, Nonce: 9, Detached: true}}},
		{Change: &pb.Command_SetFrozen{SetFrozen: &pb.SetFrozen{Node: "n1", Frozen: true, Temporary: &pb.Freeze{By: "b", Reason: "r", SinceMs: 1, UntilClockMs: 2}, Evacuate: true, Reason: "c"}}},
		{Change: &pb.Command_Operate{Operate: &pb.Operate{Operation: &v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_RESOURCE_ACTION, Group: "web", Resource: "file", Node: "n2",
			Action: "a", Arguments: []string{"x", "y"}, Detach: true, Force: true, Propagate: true}}}},
	}
	var out strings.Builder
	for _, c := range append(slices.Clone(commands), more...) {
		c.Format, c.Proposer, c.Request, c.TimeMs = 1, "n1", 7, 1000
		fmt.Fprintf(&out, "%T %x\n", c.Change, Marshal(c))
	}
	fmt.Fprintf(&out, "state %x\n", Marshal(s))
	const file = "testdata/golden.txt"
	if *rewrite {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(golden) != out.String() {
		t.Errorf("the stored form has changed: see docs/formats/state.md\n%s", out.String())
	}
	if want := (&pb.Command{}).ProtoReflect().Descriptor().Oneofs().ByName("change").Fields().Len(); want != len(commands) {
		t.Errorf("%d kinds of commands, %d of them with golden bytes", want, len(commands))
	}
	for line := range strings.Lines(string(golden)) {
		kind, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		raw, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if kind == "state" {
			back, err := Unmarshal(raw)
			if err != nil || !bytes.Equal(Marshal(back), raw) {
				t.Errorf("state: %v", err)
			}
			continue
		}
		c := &pb.Command{}
		if err := proto.Unmarshal(raw, c); err != nil || !bytes.Equal(Marshal(c), raw) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestUnknownFormatIsRefused(t *testing.T) {
	s := three(t)
	s.Format = Format + 1
	if _, err := Unmarshal(Marshal(s)); err == nil || !strings.Contains(err.Error(), "upgrade") {
		t.Fatalf("%v", err)
	}
	if _, err := Unmarshal([]byte{0xff}); err == nil {
		t.Fatal("damaged bytes were taken")
	}
}
