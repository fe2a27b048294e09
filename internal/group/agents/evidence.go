package agents

import (
	"fmt"
	"os"
	"strings"
)

// evidence says what a program whose time is over was doing, before it is killed: "; then sleep[812] waited in
// hrtimer_nanosleep; pressure: cpu 3%, io 95%, memory 0%". Empty if nothing can be found out.
func (p place) evidence(l launch, pid int) string {
	const most = 6
	var members []procStat
	var err error
	switch {
	case p.h.cgroup == "":
		members, err = p.marked(callVariable, pid)
		if l.service {
			members, err = p.members()
		}
	case l.service:
		members, err = p.members()
	default:
		members, err = cgroupMembers(p.callDir())
	}
	if err != nil {
		return ""
	}
	var what []string
	for _, m := range members {
		if len(what) == most {
			what = append(what, fmt.Sprintf("and %d more", len(members)-most))
			break
		}
		what = append(what, m.doing())
	}
	out := ""
	if len(what) > 0 {
		out = "; then " + strings.Join(what, ", ")
	}
	if p := pressure(); p != "" {
		out += "; pressure: " + p
	}
	return out
}

// doing says what a process does: "mount.nfs[812] waited in rpc_wait_bit_killable (uninterruptible)".
func (st procStat) doing() string {
	name := fmt.Sprintf("process[%d]", st.Pid)
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", st.Pid)); err == nil {
		name = fmt.Sprintf("%s[%d]", strings.TrimSpace(string(b)), st.Pid)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", st.Pid))
	if err != nil {
		return name + " had just ended"
	}
	_, state, _ := strings.Cut(string(b), "State:\t")
	uninterruptible := ""
	switch state[:min(1, len(state))] {
	case "R":
		return name + " ran"
	case "T", "t":
		return name + " was stopped"
	case "D":
		uninterruptible = " (uninterruptible)"
	}
	// Of the kernel, which may keep it to itself.
	where, err := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", st.Pid))
	if err != nil || len(where) == 0 || string(where) == "0" {
		return name + " waited" + uninterruptible
	}
	return name + " waited in " + string(where) + uninterruptible
}

// pressure is the share of the last ten seconds in which something on this machine waited for it; empty if the kernel
// doesn't tell.
func pressure() string {
	var out []string
	for _, what := range []string{"cpu", "io", "memory"} {
		b, err := os.ReadFile("/proc/pressure/" + what)
		if err != nil {
			continue
		}
		_, rest, ok := strings.Cut(string(b), "some avg10=")
		share, _, _ := strings.Cut(rest, " ")
		if ok {
			out = append(out, what+" "+share+"%")
		}
	}
	return strings.Join(out, ", ")
}
