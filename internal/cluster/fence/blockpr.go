//go:build linux

package fence

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's interface to persistent reservations, linux/pr.h: the same for SCSI,
// NVMe, device mapper and multipath.
const (
	iocRegister        = 0x401870c8 // _IOW('p', 200, 24 bytes)
	iocReserve         = 0x401070c9 // _IOW('p', 201, 16 bytes)
	iocRelease         = 0x401070ca
	iocPreempt         = 0x401870cb
	iocPreemptAbort    = 0x401870cc
	iocClear           = 0x401070cd
	iocReadKeys        = 0xc01070ce // _IOWR('p', 206, 16 bytes), Linux 6.20
	iocReadReservation = 0x801070cf // _IOR('p', 207, 16 bytes)

	flagIgnoreKey = 1

	// Positive results of the calls above, where they are not errno.
	statusCheckCondition  = 0x02 // SCSI: "see the sense data", which the kernel keeps to itself
	statusConflict        = 0x18 // SCSI, and PR_STS_RESERVATION_CONFLICT
	statusNVMeConflict    = 0x83
	statusNVMeInvalidCode = 0x01

	// attentions is how often a command is repeated that a unit attention has
	// swallowed: one waits for each path after a preemption.
	attentions = 4
	// mostKeys bounds what is read.
	mostKeys = 4096
)

type prRegistration struct {
	oldKey, newKey uint64
	flags, _       uint32
}

type prReservation struct {
	key         uint64
	kind, flags uint32
}

type prPreempt struct {
	oldKey, newKey uint64
	kind, flags    uint32
}

type prClear struct {
	key      uint64
	flags, _ uint32
}

type prReadKeys struct {
	generation, count uint32
	keys              unsafe.Pointer
}

type prReadReservation struct {
	key              uint64
	generation, kind uint32
}

// Disk is a block device as a [Reserver].
type Disk struct {
	f    *os.File
	path string
}

var _ Reserver = (*Disk)(nil)

// OpenDisk opens a whole block device, no partition.
func OpenDisk(path string) (*Disk, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("fence: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.Mode()&os.ModeType != os.ModeDevice {
		err = errors.New("it is no block device")
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("fence: %s: %w", path, err)
	}
	return &Disk{f: f, path: path}, nil
}

func (d *Disk) Close() error { return d.f.Close() }

func (d *Disk) Register(own Key) error {
	return d.out("register key "+own.String(), iocRegister, unsafe.Pointer(&prRegistration{newKey: uint64(own), flags: flagIgnoreKey}))
}

func (d *Disk) Unregister(own Key) error {
	return d.out("unregister key "+own.String(), iocRegister, unsafe.Pointer(&prRegistration{oldKey: uint64(own)}))
}

func (d *Disk) Reserve(own Key) error {
	return d.out("reserve for key "+own.String(), iocReserve, unsafe.Pointer(&prReservation{key: uint64(own), kind: uint32(WriteExclusiveRegistrantsOnly)}))
}

func (d *Disk) Release(own Key) error {
	return d.out("release for key "+own.String(), iocRelease, unsafe.Pointer(&prReservation{key: uint64(own), kind: uint32(WriteExclusiveRegistrantsOnly)}))
}

func (d *Disk) Preempt(own, victim Key) error { return d.preempt(iocPreempt, own, victim) }

func (d *Disk) PreemptAbort(own, victim Key) error { return d.preempt(iocPreemptAbort, own, victim) }

func (d *Disk) preempt(request uint, own, victim Key) error {
	if own == 0 || victim == 0 || own == victim {
		return fmt.Errorf("fence: %s: key %v can't preempt key %v", d.path, own, victim)
	}
	// The kernel's old_key goes out as the key of who asks, new_key as the one to take
	// away, whatever its documentation says: TestVMReservations has tried it.
	return d.out(fmt.Sprintf("preempt key %v by %v", victim, own), request,
		unsafe.Pointer(&prPreempt{oldKey: uint64(own), newKey: uint64(victim), kind: uint32(WriteExclusiveRegistrantsOnly)}))
}

func (d *Disk) Clear(own Key) error {
	return d.out("clear by key "+own.String(), iocClear, unsafe.Pointer(&prClear{key: uint64(own)}))
}

// ReadKeys asks the kernel, and where it has no such call the SCSI device itself.
func (d *Disk) ReadKeys() (Keys, error) {
	for room := uint32(64); ; {
		buf := make([]uint64, room)
		arg := prReadKeys{count: room, keys: unsafe.Pointer(&buf[0])}
		status, errno := d.ioctl(iocReadKeys, unsafe.Pointer(&arg))
		runtime.KeepAlive(buf)
		if noCall(errno) {
			return d.scsiReadKeys()
		}
		if err := d.failed("read keys", status, errno); err != nil {
			return Keys{}, err
		}
		if arg.count > room && room < mostKeys {
			room = min(arg.count, mostKeys)
			continue
		}
		k := Keys{Generation: arg.generation}
		for _, key := range buf[:min(arg.count, room)] {
			k.Keys = append(k.Keys, Key(key))
		}
		return k, nil
	}
}

// ReadReservation asks as ReadKeys does.
func (d *Disk) ReadReservation() (Reservation, error) {
	var arg prReadReservation
	status, errno := d.ioctl(iocReadReservation, unsafe.Pointer(&arg))
	if noCall(errno) {
		return d.scsiReadReservation()
	}
	if err := d.failed("read the reservation", status, errno); err != nil {
		return Reservation{}, err
	}
	return Reservation{Key: Key(arg.key), Type: ReservationType(arg.kind), Generation: arg.generation}, nil
}

// noCall: the kernel does not know the ioctl at all.
func noCall(errno unix.Errno) bool { return errno == unix.ENOTTY || errno == unix.EINVAL }

func (d *Disk) ioctl(request uint, arg unsafe.Pointer) (status int, errno unix.Errno) {
	raw, err := d.f.SyscallConn()
	if err != nil {
		return 0, unix.EBADF
	}
	err = raw.Control(func(fd uintptr) {
		for {
			var r uintptr
			r, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, uintptr(request), uintptr(arg))
			if status = int(r); errno != unix.EINTR {
				return
			}
		}
	})
	if err != nil {
		return 0, unix.EBADF
	}
	return status, errno
}

// out sends a command that changes something.
func (d *Disk) out(what string, request uint, arg unsafe.Pointer) error {
	for try := 0; ; try++ {
		status, errno := d.ioctl(request, arg)
		if errno != 0 || !checkCondition(status) {
			return d.failed(what, status, errno)
		}
		if try < attentions {
			continue // probably a unit attention: it is told once
		}
		err := fmt.Errorf("fence: %s: %s: the device refuses the command (check condition)", d.path, what)
		if _, rerr := d.ReadKeys(); errors.Is(rerr, ErrNoReservations) {
			err = fmt.Errorf("%w: %w", err, ErrNoReservations)
		}
		return err
	}
}

// checkCondition: of the SCSI status and the bytes of the host and the driver above it.
func checkCondition(status int) bool { return status&0xff00ff == statusCheckCondition }

// failed makes an error of what an ioctl returned.
func (d *Disk) failed(what string, status int, errno unix.Errno) error {
	wrap := func(err error) error { return fmt.Errorf("fence: %s: %s: %w", d.path, what, err) }
	switch {
	case errno == unix.EBADE:
		return wrap(ErrReservationConflict)
	case errno == unix.EOPNOTSUPP, errno == unix.ENOTTY:
		return wrap(ErrNoReservations)
	case errno != 0:
		return wrap(errno)
	case status == 0:
		return nil
	case status&0xff == statusConflict, status&0x7ff == statusNVMeConflict:
		return wrap(ErrReservationConflict)
	case status&0x7ff == statusNVMeInvalidCode:
		return wrap(ErrNoReservations)
	}
	return wrap(fmt.Errorf("the device answers with status 0x%x", status))
}

// SG_IO: a SCSI command for the device, linux scsi/sg.h.
const (
	iocSG          = 0x2285
	sgFromDevice   = -3
	sgTimeout      = 10_000 // milliseconds
	persistentIn   = 0x5e
	inReadKeys     = 0
	inReservation  = 1
	senseAttention = 0x6
	senseIllegal   = 0x5
)

type sgHeader struct {
	interfaceID    int32
	direction      int32
	commandLen     uint8
	senseMax       uint8
	_              uint16
	transferLen    uint32
	transfer       unsafe.Pointer
	command, sense unsafe.Pointer
	timeout        uint32
	flags          uint32
	packID         int32
	user           unsafe.Pointer
	status         uint8
	masked         uint8
	message        uint8
	senseWritten   uint8
	hostStatus     uint16
	driverStatus   uint16
	residual       int32
	duration, info uint32
}

// scsiIn runs PERSISTENT RESERVE IN and returns what the device has sent.
func (d *Disk) scsiIn(what string, action byte, room int) ([]byte, error) {
	buf, sense := make([]byte, room), make([]byte, 64)
	command := []byte{persistentIn, action, 0, 0, 0, 0, 0, byte(room >> 8), byte(room), 0}
	for try := 0; ; try++ {
		h := sgHeader{
			interfaceID: 'S', direction: sgFromDevice, commandLen: uint8(len(command)), senseMax: uint8(len(sense)),
			transferLen: uint32(len(buf)), transfer: unsafe.Pointer(&buf[0]),
			command: unsafe.Pointer(&command[0]), sense: unsafe.Pointer(&sense[0]), timeout: sgTimeout,
		}
		_, errno := d.ioctl(iocSG, unsafe.Pointer(&h))
		runtime.KeepAlive(buf)
		runtime.KeepAlive(command)
		runtime.KeepAlive(sense)
		wrap := func(err error) error { return fmt.Errorf("fence: %s: %s: %w", d.path, what, err) }
		if errno == unix.EINVAL || errno == unix.ENOTTY {
			return nil, wrap(fmt.Errorf("no SCSI device, and the kernel has no call for it: %w", ErrNoReservations))
		}
		if errno != 0 {
			return nil, wrap(errno)
		}
		key := senseKey(sense[:h.senseWritten])
		switch {
		case h.hostStatus != 0:
			return nil, wrap(fmt.Errorf("the path does not work (host status 0x%x)", h.hostStatus))
		case h.status == 0:
			return buf[:max(room-int(h.residual), 0)], nil
		case h.status == statusConflict:
			return nil, wrap(ErrReservationConflict)
		case key == senseAttention && try < attentions:
			continue
		case key == senseIllegal:
			return nil, wrap(ErrNoReservations)
		}
		return nil, wrap(fmt.Errorf("the device answers with status 0x%x, sense key 0x%x", h.status, key))
	}
}

// senseKey of sense data in its fixed or its descriptor form.
func senseKey(sense []byte) byte {
	switch {
	case len(sense) > 2 && sense[0]&0x7f < 0x72:
		return sense[2] & 0xf
	case len(sense) > 1:
		return sense[1] & 0xf
	}
	return 0
}

func (d *Disk) scsiReadKeys() (Keys, error) {
	const room = 8 + 8*mostKeys
	b, err := d.scsiIn("read keys", inReadKeys, room)
	if err != nil {
		return Keys{}, err
	}
	k, err := parseKeys(b)
	if err != nil {
		return Keys{}, fmt.Errorf("fence: %s: read keys: %w", d.path, err)
	}
	return k, nil
}

func (d *Disk) scsiReadReservation() (Reservation, error) {
	b, err := d.scsiIn("read the reservation", inReservation, 24)
	if err != nil {
		return Reservation{}, err
	}
	r, err := parseReservation(b)
	if err != nil {
		return Reservation{}, fmt.Errorf("fence: %s: read the reservation: %w", d.path, err)
	}
	return r, nil
}

// parseKeys of PERSISTENT RESERVE IN, READ KEYS.
func parseKeys(b []byte) (Keys, error) {
	if len(b) < 8 {
		return Keys{}, fmt.Errorf("the device has sent %d bytes", len(b))
	}
	k := Keys{Generation: binary.BigEndian.Uint32(b)}
	length := uint64(binary.BigEndian.Uint32(b[4:]))
	if length%8 != 0 || length > uint64(len(b)-8) {
		return Keys{}, fmt.Errorf("the device names %d bytes of keys and has sent %d", length, len(b)-8)
	}
	for at := uint64(8); at < 8+length; at += 8 {
		k.Keys = append(k.Keys, Key(binary.BigEndian.Uint64(b[at:])))
	}
	return k, nil
}

// parseReservation of PERSISTENT RESERVE IN, READ RESERVATION.
func parseReservation(b []byte) (Reservation, error) {
	if len(b) < 8 {
		return Reservation{}, fmt.Errorf("the device has sent %d bytes", len(b))
	}
	r := Reservation{Generation: binary.BigEndian.Uint32(b)}
	switch length := binary.BigEndian.Uint32(b[4:]); {
	case length == 0:
		return r, nil
	case length < 16 || len(b) < 24:
		return Reservation{}, fmt.Errorf("the device names %d bytes of a reservation and has sent %d", length, len(b)-8)
	}
	r.Key = Key(binary.BigEndian.Uint64(b[8:]))
	scsi := b[21] & 0xf // SCSI numbers the types with gaps
	types := map[byte]ReservationType{1: WriteExclusive, 3: ExclusiveAccess, 5: WriteExclusiveRegistrantsOnly,
		6: ExclusiveAccessRegistrantsOnly, 7: WriteExclusiveAllRegistrants, 8: ExclusiveAccessAllRegistrants}
	t, ok := types[scsi]
	if !ok {
		return Reservation{}, fmt.Errorf("the device names a reservation of type %d", scsi)
	}
	r.Type = t
	return r, nil
}
