// Package wire carries protobuf messages over a byte stream, one frame each.
// The processes of a node and the nodes of a cluster talk frames to each other.
//
// A frame is a header of 12 bytes and the message's bytes (docs/formats/frames.md):
//
//	0  magic    2 bytes  'H' 'f'
//	2  version  1 byte   1
//	3  zero     1 byte
//	4  length   4 bytes  of the body, little-endian
//	8  sum      4 bytes  CRC-32C of bytes 0 to 7, little-endian
//	12 body     length bytes
//
// Invariants:
//
//	W1  nothing is allocated for a length that the header's sum does not confirm,
//	    nor for one above the reader's bound
//	W2  a stream that ends between frames ends with io.EOF, one that ends inside
//	    of a frame with io.ErrUnexpectedEOF
//	W3  a frame is written with a single Write
//
// The sum finds streams that are no frames or have lost their place. It does not
// protect the body: streams are TLS, or sockets inside of one machine. After any
// error of [ReadFrame] other than [ErrBody] the place in the stream is unknown and
// the caller closes the connection.
package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"google.golang.org/protobuf/proto"
)

// HeaderSize is the length of a frame's header in bytes.
const HeaderSize = 12

// Version of the frame layout that this package writes and reads.
const Version = 1

const (
	magic0 = 'H'
	magic1 = 'f'
)

// The classes of errors that [ReadFrame] returns beside those of its reader.
var (
	// ErrMagic: the stream does not carry frames.
	ErrMagic = errors.New("wire: not a frame")
	// ErrVersion: the peer writes a layout that this program does not know.
	ErrVersion = errors.New("wire: unknown frame version")
	// ErrSum: the header is damaged.
	ErrSum = errors.New("wire: damaged frame header")
	// ErrTooLarge: the body is longer than the caller allows; see [TooLargeError].
	ErrTooLarge = errors.New("wire: frame too large")
	// ErrBody: the body is not a message of the expected type. The frame has been
	// consumed, and the next one may be read.
	ErrBody = errors.New("wire: damaged message")
)

// A TooLargeError says which length was announced and which is allowed, in bytes.
type TooLargeError struct {
	Length, Max int64
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("wire: frame of %d bytes: at most %d are allowed here", e.Length, e.Max)
}

func (e *TooLargeError) Unwrap() error { return ErrTooLarge }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// AppendFrame appends the frame of m to dst and returns the longer slice. It fails,
// and returns dst as it was, if m cannot be encoded or is 4 GiB or longer.
func AppendFrame(dst []byte, m proto.Message) ([]byte, error) {
	start := len(dst)
	out := append(dst, make([]byte, HeaderSize)...)
	out, err := proto.MarshalOptions{}.MarshalAppend(out, m)
	if err != nil {
		return dst, fmt.Errorf("wire: encode %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	length := int64(len(out) - start - HeaderSize)
	if length > math.MaxUint32 {
		return dst, &TooLargeError{Length: length, Max: math.MaxUint32}
	}
	putHeader(out[start:start+HeaderSize], uint32(length))
	return out, nil
}

// WriteFrame writes m as one frame, with a single Write.
func WriteFrame(w io.Writer, m proto.Message) error {
	frame, err := AppendFrame(make([]byte, 0, HeaderSize+proto.Size(m)), m)
	if err != nil {
		return err
	}
	if _, err := w.Write(frame); err != nil {
		return fmt.Errorf("wire: write frame: %w", err)
	}
	return nil
}

// ReadFrame reads one frame into m, which it resets first. A body longer than max
// bytes is refused with a [TooLargeError] before anything is allocated for it. At the
// end of a stream, between two frames, it returns io.EOF itself.
func ReadFrame(r *bufio.Reader, m proto.Message, max int) error {
	var header [HeaderSize]byte
	if n, err := io.ReadFull(r, header[:]); err != nil {
		if n == 0 && err == io.EOF {
			return io.EOF
		}
		return fmt.Errorf("wire: read frame header: %w", err)
	}
	length, err := parseHeader(header[:])
	if err != nil {
		return err
	}
	if int64(length) > int64(max) {
		return &TooLargeError{Length: int64(length), Max: int64(max)}
	}
	body, err := readBody(r, int(length))
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(body, m); err != nil {
		return fmt.Errorf("%w: %s of %d bytes: %v", ErrBody, m.ProtoReflect().Descriptor().FullName(), length, err)
	}
	return nil
}

// readBody returns the next n bytes. The slice is valid until the next read from r:
// short bodies are not copied out of the reader's buffer.
func readBody(r *bufio.Reader, n int) ([]byte, error) {
	if n <= r.Size() {
		body, err := r.Peek(n)
		if err == nil {
			_, err = r.Discard(n)
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, fmt.Errorf("wire: read frame body of %d bytes: %w", n, err)
		}
		return body, nil
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("wire: read frame body of %d bytes: %w", n, err)
	}
	return body, nil
}

func putHeader(h []byte, length uint32) {
	h[0], h[1], h[2], h[3] = magic0, magic1, Version, 0
	binary.LittleEndian.PutUint32(h[4:], length)
	binary.LittleEndian.PutUint32(h[8:], crc32.Checksum(h[:8], castagnoli))
}

// parseHeader checks in the order magic, sum, version, so that damage is not taken
// for a newer version.
func parseHeader(h []byte) (length uint32, err error) {
	if h[0] != magic0 || h[1] != magic1 {
		return 0, fmt.Errorf("%w: begins with % x", ErrMagic, h[:2])
	}
	if sum, want := crc32.Checksum(h[:8], castagnoli), binary.LittleEndian.Uint32(h[8:]); sum != want {
		return 0, fmt.Errorf("%w: sum %08x, its bytes give %08x", ErrSum, want, sum)
	}
	if h[2] != Version || h[3] != 0 {
		return 0, fmt.Errorf("%w %d.%d: this program knows version %d; both ends must run the same release", ErrVersion, h[2], h[3], Version)
	}
	return binary.LittleEndian.Uint32(h[4:]), nil
}
