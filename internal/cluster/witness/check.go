package witness

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// Bounds of what a point keeps of one cluster.
const (
	// MaxRuns and MaxViews of a register. More uncommitted ones than that are not accepted.
	MaxRuns  = 64
	MaxViews = 16
	// MaxSuspicions: one per node name ever suspected.
	MaxSuspicions = 256
	// MaxName of a node, in bytes.
	MaxName = 255
	// MaxRegisterBytes that the encoding of a valid register can have.
	MaxRegisterBytes = 56 + MaxRuns*24 + MaxViews*24

	// No cluster gets there, and a damaged number must not end all counting.
	maxCounter = 1 << 62
)

// Compare ballots: counter first, then proposer. Nil is below all.
func Compare(a, b *witnesspb.Ballot) int {
	return cmp.Or(cmp.Compare(a.GetCounter(), b.GetCounter()), cmp.Compare(a.GetProposer(), b.GetProposer()))
}

// CheckRegister says what is wrong with a register; nil is empty and good.
func CheckRegister(r *witnesspb.Register) error {
	runs, views := r.GetRuns(), r.GetViews()
	switch {
	case len(runs) > MaxRuns || len(views) > MaxViews:
		return fmt.Errorf("witness: a register of %d runs and %d views; %d and %d are possible", len(runs), len(views), MaxRuns, MaxViews)
	case (r.GetLastIndex() == 0) != (len(runs) == 0):
		return fmt.Errorf("witness: a register with last index %d in %d runs", r.GetLastIndex(), len(runs))
	case r.GetCommit() > r.GetLastIndex():
		return fmt.Errorf("witness: a register with last index %d has %d committed", r.GetLastIndex(), r.GetCommit())
	}
	var index, term uint64
	for _, run := range runs {
		if run.GetFirstIndex() <= index || run.GetTerm() <= term || run.GetFirstIndex() > r.GetLastIndex() || run.GetTerm() > r.GetTerm() {
			return errors.New("witness: a register whose runs are not in order")
		}
		index, term = run.GetFirstIndex(), run.GetTerm()
	}
	if len(runs) > 0 {
		if first := runs[0].GetFirstIndex(); first > 1 && first > r.GetCommit() {
			return fmt.Errorf("witness: a register that begins at %d has %d committed", first, r.GetCommit())
		}
	}
	var epoch uint64
	index = 0
	for _, v := range views {
		if v.GetIndex() <= index || v.GetIndex() > r.GetLastIndex() || v.GetEpoch() < epoch {
			return errors.New("witness: a register whose views are not in order")
		}
		index, epoch = v.GetIndex(), v.GetEpoch()
	}
	return nil
}

// CheckRequest says what is wrong with a request.
func CheckRequest(r *witnesspb.Request) error {
	switch {
	case r == nil:
		return errors.New("witness: no request")
	case r.GetRegister() == 0 || r.GetRaftId() == 0:
		return errors.New("witness: a request without a register or a raft id")
	case !validName(r.GetNode()):
		return errors.New("witness: a request without the name of its node")
	}
	switch b := r.GetBody().(type) {
	case *witnesspb.Request_Prepare:
		return checkBallot(b.Prepare.GetBallot())
	case *witnesspb.Request_Accept:
		if Compare(b.Accept.GetNext(), b.Accept.GetBallot()) < 0 {
			return errors.New("witness: the ballot promised next is below the one accepted")
		}
		if b.Accept.GetValue() == nil {
			return errors.New("witness: nothing to accept")
		}
		return errors.Join(checkBallot(b.Accept.GetBallot()), checkBallot(b.Accept.GetNext()), CheckRegister(b.Accept.GetValue()))
	case *witnesspb.Request_Renew:
		if b.Renew == nil {
			return errors.New("witness: a request that asks for nothing")
		}
	case *witnesspb.Request_Suspect:
		if !validName(b.Suspect.GetAbout()) || b.Suspect.GetAboutRaftId() == 0 {
			return errors.New("witness: a suspicion of nobody")
		}
	case *witnesspb.Request_Look:
	default:
		return errors.New("witness: a request that asks for nothing")
	}
	return nil
}

func checkBallot(b *witnesspb.Ballot) error {
	if b.GetCounter() == 0 || b.GetProposer() == 0 || b.GetCounter() > maxCounter {
		return errors.New("witness: a ballot without a counter or a proposer, or with an absurd one")
	}
	return nil
}

func validName(s string) bool { return s != "" && len(s) <= MaxName }

// CheckKept says what is wrong with what a point has kept; nil is empty and good.
func CheckKept(k *witnesspb.Kept) error {
	switch {
	case k == nil:
		return nil
	case k.GetFormat() != Format:
		return fmt.Errorf("witness: what was kept has format %d; this release knows %d", k.GetFormat(), Format)
	case k.GetPromised().GetCounter() > maxCounter:
		return errors.New("witness: an absurd ballot was promised")
	case Compare(k.GetPromised(), k.GetAccepted()) < 0:
		return errors.New("witness: a ballot was accepted above the one promised")
	case (k.GetAccepted() == nil) != (k.GetValue() == nil):
		return errors.New("witness: a value without a ballot, or a ballot without a value")
	case len(k.GetSuspicions()) > MaxSuspicions:
		return fmt.Errorf("witness: %d suspicions; %d are possible", len(k.GetSuspicions()), MaxSuspicions)
	}
	for i, s := range k.GetSuspicions() {
		if !validName(s.GetNode()) || s.GetRaftId() == 0 || i > 0 && k.GetSuspicions()[i-1].GetNode() >= s.GetNode() {
			return errors.New("witness: suspicions are not in order")
		}
	}
	return CheckRegister(k.GetValue())
}
