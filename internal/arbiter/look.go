package arbiter

import (
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// A look by datagram is one packet to the arbiter and one back
// (docs/formats/arbiter.md). Both are sealed with the key of a pass, which
// belongs to one node of one cluster and ends at a stated second. The arbiter
// computes keys anew and keeps nothing for a pass.
//
//	look                             answer
//	0   magic    2  'H' 'l'          0   magic   2  'H' 'l'
//	2   version  1  1                2   version 1  1
//	3   kind     1  1                3   kind    1  2: a reply follows, 3: ask over a connection
//	4   cluster 16                   4   nonce  24
//	20  expires  8  little-endian    28  sealed     seconds (2, little-endian), Reply (kind 3: none), tag of 16 bytes
//	28  length   1  of the name
//	29  node
//	..  nonce   24
//	..  sealed      number (8 bytes, little-endian), Request, and tag of 16 bytes
//
// Associated data are the bytes before the nonce; those of an answer are
// followed by the look's nonce (C2). The number grows with each look of a node.
// The seconds say how often the arbiter wants to be looked at.
const (
	lookVersion = 1
	kindLook    = 1
	kindAnswer  = 2
	kindConnect = 3

	lookFixed = 29
	nonceSize = chacha20poly1305.NonceSizeX
	tagSize   = chacha20poly1305.Overhead
	// LookMax is the length of the longest datagram, below what paths carry in one piece.
	LookMax = 1200
	// PassKeySize in bytes.
	PassKeySize = chacha20poly1305.KeySize
	// NameMax of a node in bytes.
	NameMax = 255
)

// ErrLook marks a datagram that is not a look or an answer to one.
var ErrLook = errors.New("arbiter: not a look")

// PassKey of a node's pass that ends at expires (seconds since 1970).
func PassKey(secret []byte, cluster [16]byte, node string, expires int64) [PassKeySize]byte {
	m := hmac.New(sha256.New, secret)
	m.Write([]byte("holdfast arbiter pass v1\x00"))
	m.Write(cluster[:])
	m.Write(binary.LittleEndian.AppendUint64(nil, uint64(expires)))
	m.Write([]byte(node))
	return [PassKeySize]byte(m.Sum(nil))
}

// LookHeader is the clear part of a look.
type LookHeader struct {
	Cluster [16]byte
	Expires int64
	Node    []byte // valid as long as the datagram
	size    int
}

// SealLook makes a datagram. nonce must be random.
func SealLook(key [PassKeySize]byte, cluster [16]byte, expires int64, node string, nonce [nonceSize]byte, number uint64, r *witnesspb.Request) ([]byte, error) {
	if len(node) > NameMax {
		return nil, fmt.Errorf("%w: the node's name is too long", ErrLook)
	}
	b := make([]byte, 0, LookMax)
	b = append(b, 'H', 'l', lookVersion, kindLook)
	b = append(b, cluster[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(expires))
	b = append(b, byte(len(node)))
	b = append(b, node...)
	header := len(b)
	b = append(b, nonce[:]...)
	plain := binary.LittleEndian.AppendUint64(make([]byte, 0, 256), number)
	plain, err := proto.MarshalOptions{}.MarshalAppend(plain, r)
	if err != nil {
		return nil, err
	}
	b = aead(key).Seal(b, nonce[:], plain, b[:header])
	if len(b) > LookMax {
		return nil, fmt.Errorf("%w: %d bytes are too many", ErrLook, len(b))
	}
	return b, nil
}

// ParseLook reads the clear part.
func ParseLook(b []byte) (LookHeader, error) {
	var h LookHeader
	if len(b) > LookMax || len(b) < lookFixed || b[0] != 'H' || b[1] != 'l' || b[2] != lookVersion || b[3] != kindLook {
		return h, ErrLook
	}
	h.size = lookFixed + int(b[28])
	if b[28] == 0 || len(b) < h.size+nonceSize+8+tagSize {
		return h, ErrLook
	}
	copy(h.Cluster[:], b[4:])
	h.Expires = int64(binary.LittleEndian.Uint64(b[20:]))
	h.Node = b[lookFixed:h.size]
	return h, nil
}

// OpenLook reads the sealed part of a datagram with this header into r. The
// sealed bytes are overwritten.
func OpenLook(key [PassKeySize]byte, h LookHeader, b []byte, r *witnesspb.Request) (number uint64, err error) {
	sealed := b[h.size+nonceSize:]
	plain, err := aead(key).Open(sealed[:0], b[h.size:h.size+nonceSize], sealed, b[:h.size])
	if err != nil {
		return 0, ErrLook
	}
	if err := proto.Unmarshal(plain[8:], r); err != nil {
		return 0, ErrLook
	}
	return binary.LittleEndian.Uint64(plain), nil
}

// LookNonce of a datagram that ParseLook has taken.
func LookNonce(h LookHeader, b []byte) (n [nonceSize]byte) {
	copy(n[:], b[h.size:])
	return n
}

// AppendAnswer to the look with the given nonce to dst. A reply that is too long
// becomes the advice to ask over a connection. every is how often the node
// shall look, in seconds.
func AppendAnswer(dst []byte, key [PassKeySize]byte, look, nonce [nonceSize]byte, every uint16, r *witnesspb.Reply) []byte {
	start := len(dst)
	dst = append(dst, 'H', 'l', lookVersion, kindAnswer)
	dst = append(dst, nonce[:]...)
	plain := len(dst)
	dst = binary.LittleEndian.AppendUint16(dst, every)
	whole, err := proto.MarshalOptions{}.MarshalAppend(dst, r)
	if err == nil && len(whole)-start+tagSize <= LookMax {
		dst = whole
	} else {
		dst[start+3] = kindConnect
	}
	sealed := aead(key).Seal(dst[plain:plain], nonce[:], dst[plain:], answerData(dst[start:start+4], look))
	return append(dst[:plain], sealed...) // in place, unless the tag needed more room
}

// ErrConnect: the reply does not fit into a datagram.
var ErrConnect = errors.New("arbiter: the reply is too long for a datagram")

// OpenAnswer to the look with the given nonce.
func OpenAnswer(key [PassKeySize]byte, look [nonceSize]byte, b []byte) (every uint16, r *witnesspb.Reply, err error) {
	if len(b) > LookMax || len(b) < 4+nonceSize+2+tagSize || b[0] != 'H' || b[1] != 'l' || b[2] != lookVersion {
		return 0, nil, ErrLook
	}
	plain, err := aead(key).Open(nil, b[4:4+nonceSize], b[4+nonceSize:], answerData(b[:4], look))
	if err != nil {
		return 0, nil, ErrLook
	}
	switch b[3] {
	case kindConnect:
		return 0, nil, ErrConnect
	case kindAnswer:
		r = new(witnesspb.Reply)
		if err := proto.Unmarshal(plain[2:], r); err != nil {
			return 0, nil, ErrLook
		}
		return binary.LittleEndian.Uint16(plain), r, nil
	}
	return 0, nil, ErrLook
}

func answerData(header []byte, look [nonceSize]byte) []byte {
	b := make([]byte, 0, 4+nonceSize)
	return append(append(b, header...), look[:]...)
}

func aead(key [PassKeySize]byte) cipher.AEAD {
	a, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		panic(err) // the length of the key is right
	}
	return a
}
