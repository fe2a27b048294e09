package device

import (
	"bytes"
	"fmt"

	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk"
)

// signature that others leave on disks, as blkid knows them.
type signature struct {
	at    int64
	magic string
	what  string
}

var signatures = []signature{
	{512, "EFI PART", "a GPT partition table"},
	{4096, "EFI PART", "a GPT partition table"},
	{510, "\x55\xaa", "a DOS partition table or boot sector"},
	{0x438, "\x53\xef", "an ext2, ext3 or ext4 file system"},
	{0, "XFSB", "an XFS file system"},
	{0x10040, "_BHRfS_M", "a Btrfs file system"},
	{0x10000, "\x01\x16\x19\x70", "a GFS2 file system"},
	{0x2000, "OCFSV2", "an OCFS2 file system"},
	{0x400, "\x10\x20\xf5\xf2", "an F2FS file system"},
	{3, "NTFS    ", "an NTFS file system"},
	{0x8001, "CD001", "an ISO 9660 file system"},
	{0, "hsqs", "a SquashFS file system"},
	{4086, "SWAPSPACE2", "swap space"},
	{4086, "SWAP-SPACE", "swap space"},
	{0, "LUKS\xba\xbe", "a LUKS volume"},
	{0, "LABELONE", "an LVM physical volume"},
	{512, "LABELONE", "an LVM physical volume"},
	{1024, "LABELONE", "an LVM physical volume"},
	{1536, "LABELONE", "an LVM physical volume"},
	{0, "\xfc\x4e\x2b\xa9", "a member of an MD RAID"},
	{4096, "\xfc\x4e\x2b\xa9", "a member of an MD RAID"},
	{0, "bluestore block device", "a Ceph OSD"},
	{0, "SBD_SBD_", "an SBD device"},
	{0, "\x12\x21\x20\x10", "sanlock lockspaces"},
	{0, "PRIVHEAD", "a Windows dynamic disk"},
	{128 << 10, "PRIVHEAD", "a VxVM disk"},
}

// detect says what is on a disk: a signature, or the first byte that is not
// zero among those that a lock disk of so many bytes takes, and at the end,
// where some keep their metadata. "": nothing.
func detect(f *file, bytesUsed int64) (string, error) {
	if h, _, err := lockdisk.ReadHeader(f.page); err == nil {
		return f.describeLockDisk(h), nil
	} else if h.Disk != (lockdisk.ID{}) {
		return fmt.Sprintf("a lock disk, %v, whose formatting was interrupted", h.Disk), nil
	}
	head := make([]byte, min(f.size, 1<<20)&^(lockdisk.PageSize-1))
	if err := f.load(head, 0); err != nil {
		return "", err
	}
	for _, s := range signatures {
		if end := s.at + int64(len(s.magic)); end <= int64(len(head)) && string(head[s.at:end]) == s.magic {
			return s.what, nil
		}
	}
	const tail = 1 << 20
	spans := [][2]int64{{0, min(bytesUsed, f.size)}}
	if from := max(bytesUsed, f.size-tail) &^ (lockdisk.PageSize - 1); from < f.size {
		spans = append(spans, [2]int64{from, f.size})
	}
	chunk := make([]byte, tail)
	for _, span := range spans {
		for at := span[0]; at+lockdisk.PageSize <= span[1]; at += tail {
			b := chunk[:min(tail, span[1]-at)&^(lockdisk.PageSize-1)]
			if err := f.load(b, at); err != nil {
				return "", err
			}
			if i := firstNonZero(b); i >= 0 {
				return fmt.Sprintf("data of an unknown kind (at byte %d)", at+int64(i)), nil
			}
		}
	}
	return "", nil
}

func firstNonZero(b []byte) int {
	rest := bytes.TrimLeft(b, "\x00")
	if len(rest) == 0 {
		return -1
	}
	return len(b) - len(rest)
}

func (f *file) describeLockDisk(h lockdisk.Header) string {
	used := 0
	for slot := range h.Slots {
		if lockdisk.ViewSlot(f.page, h.Disk, slot) != nil {
			used++
		}
	}
	switch used {
	case 0:
		return fmt.Sprintf("a lock disk, %v, that no cluster uses", h.Disk)
	case 1:
		return fmt.Sprintf("a lock disk, %v, with a slot that a cluster uses", h.Disk)
	}
	return fmt.Sprintf("a lock disk, %v, with slots that %d clusters use", h.Disk, used)
}

// load fills b, whose length is of whole pages, from at.
func (f *file) load(b []byte, at int64) error {
	buffer := f.aligned(len(b))
	if err := f.pread(buffer, at); err != nil {
		return err
	}
	copy(b, buffer)
	return nil
}
