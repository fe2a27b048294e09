package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A switch port drops what certain senders send through it: this is how one
// pair of nodes is cut while all others still talk. The rule is a small eBPF
// program at the port's egress, which every kernel since 4.5 with cls_bpf
// takes. It drops silently, broadcasts included, as a broken switch does; only
// neighbours may still find each other (ARP, ND), or a cut of one direction
// would become one of both as soon as their caches age.

// insn is one eBPF instruction.
type insn struct {
	op       uint8
	dst, src uint8
	off      int16
	imm      int32
}

// dropProgram returns a classifier that drops every frame whose Ethernet
// source is one of senders, neighbour discovery excepted, and passes
// everything else.
func dropProgram(senders []net.HardwareAddr) []insn {
	const (
		r0, r1, r6, r7, r8 = 0, 1, 6, 7, 8
		movReg             = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_X
		movImm             = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K
		loadWord           = unix.BPF_LD | unix.BPF_ABS | unix.BPF_W
		loadHalf           = unix.BPF_LD | unix.BPF_ABS | unix.BPF_H
		loadByte           = unix.BPF_LD | unix.BPF_ABS | unix.BPF_B
		jumpNotEqual       = unix.BPF_JMP | unix.BPF_JNE | unix.BPF_K
		jumpEqual          = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		exit               = unix.BPF_JMP | unix.BPF_EXIT
		pass, drop         = 0, 2 // TC_ACT_OK, TC_ACT_SHOT
	)
	var prog []insn
	// Offsets in the frame: 6 source, 12 kind, 20 next header and 54 type of ICMPv6.
	toPass := 4 + 4*len(senders) // from the first instruction about senders
	prog = append(prog,
		insn{op: movReg, dst: r6, src: r1}, // where loads look
		insn{op: loadHalf, imm: 12},
		insn{op: jumpEqual, dst: r0, off: int16(6 + toPass), imm: unix.ETH_P_ARP},
		insn{op: jumpNotEqual, dst: r0, off: 5, imm: unix.ETH_P_IPV6},
		insn{op: loadByte, imm: 20},
		insn{op: jumpNotEqual, dst: r0, off: 3, imm: unix.IPPROTO_ICMPV6},
		insn{op: loadByte, imm: 54},
		insn{op: jumpEqual, dst: r0, off: int16(1 + toPass), imm: 135}, // neighbour solicitation
		insn{op: jumpEqual, dst: r0, off: int16(toPass), imm: 136},     // neighbour advertisement

		insn{op: loadWord, imm: 6},
		insn{op: movReg, dst: r7, src: r0},
		insn{op: loadHalf, imm: 10},
		insn{op: movReg, dst: r8, src: r0},
	)
	for _, m := range senders {
		prog = append(prog,
			insn{op: jumpNotEqual, dst: r7, off: 3, imm: int32(binary.BigEndian.Uint32(m[0:4]))},
			insn{op: jumpNotEqual, dst: r8, off: 2, imm: int32(binary.BigEndian.Uint16(m[4:6]))},
			insn{op: movImm, dst: r0, imm: drop},
			insn{op: exit},
		)
	}
	return append(prog, insn{op: movImm, dst: r0, imm: pass}, insn{op: exit})
}

// encode gives the kernel's form. An address whose first bit is set would
// be compared sign-extended; ours start with 02.
func encode(prog []insn) []byte {
	b := make([]byte, 8*len(prog))
	for i, in := range prog {
		c := b[8*i:]
		c[0], c[1] = in.op, in.dst|in.src<<4
		binary.NativeEndian.PutUint16(c[2:], uint16(in.off))
		binary.NativeEndian.PutUint32(c[4:], uint32(in.imm))
	}
	return b
}

// loadProgram gives the program to the kernel. The caller closes the descriptor.
func loadProgram(prog []insn) (int, error) {
	code := encode(prog)
	license := []byte("Apache-2.0\x00")
	log := make([]byte, 4096)
	attr := struct {
		kind, count     uint32
		insns, license  uint64
		logLevel, logSz uint32
		log             uint64
		kernel, flags   uint32
		name            [16]byte
	}{
		kind: unix.BPF_PROG_TYPE_SCHED_CLS, count: uint32(len(prog)),
		insns: uint64(uintptr(unsafe.Pointer(&code[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
		logLevel: 1, logSz: uint32(len(log)), log: uint64(uintptr(unsafe.Pointer(&log[0]))),
	}
	copy(attr.name[:], "holdfast_lab")
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(code)
	runtime.KeepAlive(license)
	if errno != 0 {
		return -1, fmt.Errorf("load the drop rule: %w %s", errno, unix.ByteSliceToString(log))
	}
	return int(fd), nil
}

// dropAll is a classifier that passes nothing.
func dropAll() []insn {
	return []insn{{op: unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K, imm: 2}, {op: unix.BPF_JMP | unix.BPF_EXIT}}
}

// setDrop makes the switch port drop exactly what the given senders send
// through it; silent, everything in both directions. Neither removes the rule.
func setDrop(h *netlink.Handle, port netlink.Link, senders []net.HardwareAddr, silent bool) error {
	clsact := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: port.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	_ = h.QdiscDel(clsact) // fails if there is none
	if len(senders) == 0 && !silent {
		return nil
	}
	if err := h.QdiscAdd(clsact); err != nil {
		return fmt.Errorf("drop rule on port %s: %w", port.Attrs().Name, err)
	}
	if silent {
		return errors.Join(addDrop(h, port, netlink.HANDLE_MIN_EGRESS, dropAll()), addDrop(h, port, netlink.HANDLE_MIN_INGRESS, dropAll()))
	}
	return addDrop(h, port, netlink.HANDLE_MIN_EGRESS, dropProgram(senders))
}

func addDrop(h *netlink.Handle, port netlink.Link, hook uint32, prog []insn) error {
	fd, err := loadProgram(prog)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = h.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: port.Attrs().Index, Parent: hook,
			Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL},
		Fd: fd, Name: "holdfast-lab", DirectAction: true,
	})
	if err != nil {
		return fmt.Errorf("drop rule on port %s: %w (the kernel needs CONFIG_NET_CLS_BPF)", port.Attrs().Name, err)
	}
	return nil
}
