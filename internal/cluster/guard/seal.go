package guard

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// A packet is a clear header and the sealed heartbeat (docs/formats/heartbeat.md):
//
//	0   magic     2  'H' 'b'
//	2   version   1  1
//	3   link      1
//	4   receiver  3  its index in the sender's configuration, little-endian
//	7   length    1  of the sender's name
//	8   cluster   4  first bytes of SHA-256 of the cluster's uuid
//	12  sequence  8  little-endian
//	20  salt     16  of the sender's guard
//	36  name         of the sender
//	..  sealed       heartbeat and tag of 16 bytes, AES-256-GCM
//
// The nonce is link, receiver and sequence. It never repeats under one key: a key
// belongs to one guard's salt, and a guard uses a number for one round only.
const (
	packetVersion = 1
	packetFixed   = 36
	// SaltSize is the length of a guard's salt, which must be random.
	SaltSize = 16
	// SecretSize is the length of the cluster's heartbeat secret.
	SecretSize = 32
	tagSize    = 16
	// MaxPacket is the length of the longest packet of this version.
	MaxPacket = packetFixed + MaxName + MaxHeartbeat + tagSize
	// ReceiveBuffer holds longer packets of later releases too.
	ReceiveBuffer = 2048
	// Keys of at most so many senders are kept.
	maxSenders = 4 * MaxPeers
)

// Why a packet was dropped; see [Reason].
var (
	ErrForged  = errors.New("guard: heartbeat does not authenticate")
	ErrForeign = errors.New("guard: heartbeat of another cluster, or for another link")
)

// Reason that an error of [Opener.Open] is counted as.
func Reason(err error) DropReason {
	switch {
	case errors.Is(err, ErrForeign):
		return DropForeign
	case errors.Is(err, ErrForged):
		return DropForged
	}
	return DropMalformed
}

// deriveKey of one guard of one node.
func deriveKey(secret []byte, salt []byte, cluster, node string) (cipher.AEAD, error) {
	if len(secret) != SecretSize {
		return nil, fmt.Errorf("guard: the heartbeat secret has %d bytes, not %d", len(secret), SecretSize)
	}
	key, err := hkdf.Key(sha256.New, secret, salt, "holdfast heartbeat v1\x00"+cluster+"\x00"+node, 32)
	if err != nil {
		return nil, fmt.Errorf("guard: heartbeat key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("guard: heartbeat key: %w", err)
	}
	return cipher.NewGCM(block)
}

func clusterTag(cluster string) [4]byte {
	sum := sha256.Sum256([]byte(cluster))
	return [4]byte(sum[:4])
}

// Sealer makes the packets of one guard. It is not safe for concurrent use.
type Sealer struct {
	aead   cipher.AEAD
	header []byte // link, receiver and sequence are filled in per packet
	aad    []byte
	plain  []byte
	nonce  [12]byte
}

// NewSealer for the guard of node. Salt must be random and used by this guard only.
func NewSealer(secret []byte, cluster, node string, salt [SaltSize]byte) (*Sealer, error) {
	if node == "" || len(node) > MaxName {
		return nil, fmt.Errorf("guard: a node's name has 1 to %d bytes, not %d", MaxName, len(node))
	}
	aead, err := deriveKey(secret, salt[:], cluster, node)
	if err != nil {
		return nil, err
	}
	tag := clusterTag(cluster)
	h := append(make([]byte, 0, packetFixed+len(node)), 'H', 'b', packetVersion, 0, 0, 0, 0, byte(len(node)))
	h = append(h, tag[:]...)
	h = append(h, 0, 0, 0, 0, 0, 0, 0, 0)
	h = append(h, salt[:]...)
	h = append(h, node...)
	return &Sealer{aead: aead, header: h, aad: make([]byte, 0, len(h)+MaxName), plain: make([]byte, 0, MaxHeartbeat)}, nil
}

// Seal appends the packet of h to dst. Index is to's place in the configuration; it
// tells receivers of one round apart.
func (s *Sealer) Seal(dst []byte, link, index int, to string, h *Heartbeat) []byte {
	s.header[3] = byte(link)
	s.header[4], s.header[5], s.header[6] = byte(index), byte(index>>8), byte(index>>16)
	binary.LittleEndian.PutUint64(s.header[12:], h.Sequence)
	packetNonce(&s.nonce, s.header)
	s.aad = append(append(s.aad[:0], s.header...), to...)
	s.plain = AppendHeartbeat(s.plain[:0], h)
	dst = append(dst, s.header...)
	return s.aead.Seal(dst, s.nonce[:], s.plain, s.aad)
}

func packetNonce(nonce *[12]byte, header []byte) {
	copy(nonce[:4], header[3:7])
	copy(nonce[4:], header[12:20])
}

// Opener reads the packets for one node. It is not safe for concurrent use.
type Opener struct {
	secrets       [][]byte
	cluster, node string
	tag           [4]byte
	senders       map[string]*sender
	aad, plain    []byte
	nonce         [12]byte
}

// sender of packets that were authentic.
type sender struct {
	name   string
	salt   [SaltSize]byte
	aead   cipher.AEAD
	secret []byte
	hb     Heartbeat
}

// NewOpener for node. Secrets are those that are accepted: several while one
// takes the place of another.
func NewOpener(cluster, node string, secrets ...[]byte) (*Opener, error) {
	o := &Opener{
		cluster: cluster, node: node, tag: clusterTag(cluster), senders: map[string]*sender{},
		aad: make([]byte, 0, packetFixed+2*MaxName), plain: make([]byte, 0, ReceiveBuffer),
	}
	return o, o.Accept(secrets...)
}

// Accept these secrets from now on, and no others.
func (o *Opener) Accept(secrets ...[]byte) error {
	if len(secrets) == 0 {
		return errors.New("guard: no heartbeat secret")
	}
	for _, s := range secrets {
		if _, err := deriveKey(s, make([]byte, SaltSize), o.cluster, o.node); err != nil {
			return err
		}
	}
	o.secrets = secrets
	for name, s := range o.senders {
		if !slices.ContainsFunc(secrets, func(secret []byte) bool { return bytes.Equal(secret, s.secret) }) {
			delete(o.senders, name)
		}
	}
	return nil
}

// unlock a packet of somebody whose salt was not seen before.
func (o *Opener) unlock(salt, header, sealed []byte) (aead cipher.AEAD, secret []byte, err error) {
	for _, secret = range o.secrets {
		if aead, err = deriveKey(secret, salt, o.cluster, string(header[packetFixed:])); err != nil {
			return nil, nil, err
		}
		if o.plain, err = aead.Open(o.plain[:0], o.nonce[:], sealed, o.aad); err == nil {
			return aead, secret, nil
		}
	}
	return nil, nil, ErrForged
}

// Open a packet that arrived on link. The heartbeat is valid until the next call.
// With an error, from is who the packet claims to be of, as far as that can be read
// and has been authentic once; it is good for counting only.
func (o *Opener) Open(link int, packet []byte) (from string, hb *Heartbeat, err error) {
	if len(packet) < packetFixed+heartbeatFixed+tagSize || packet[0] != 'H' || packet[1] != 'b' || packet[2] != packetVersion {
		return "", nil, ErrHeartbeat
	}
	end := packetFixed + int(packet[7])
	if end == packetFixed || len(packet) < end+heartbeatFixed+tagSize || len(packet) > ReceiveBuffer {
		return "", nil, ErrHeartbeat
	}
	if [4]byte(packet[8:12]) != o.tag {
		return "", nil, ErrForeign
	}
	header, sealed := packet[:end], packet[end:]
	s := o.senders[string(header[packetFixed:])]
	if s != nil {
		from = s.name
	}
	if int(packet[3]) != link {
		return from, nil, ErrForeign
	}
	salt := packet[20:packetFixed]
	known := s != nil && s.salt == [SaltSize]byte(salt)
	packetNonce(&o.nonce, header)
	o.aad = append(append(o.aad[:0], header...), o.node...)
	if known {
		if o.plain, err = s.aead.Open(o.plain[:0], o.nonce[:], sealed, o.aad); err != nil {
			return from, nil, ErrForged
		}
	} else {
		aead, secret, err := o.unlock(salt, header, sealed)
		if err != nil {
			return from, nil, err
		}
		if s == nil && len(o.senders) >= maxSenders {
			clear(o.senders) // authentic all of them, but of nodes long gone
		}
		if s == nil {
			s = &sender{name: string(header[packetFixed:])}
			o.senders[s.name] = s
		}
		s.salt, s.aead, s.secret = [SaltSize]byte(salt), aead, secret
	}
	if err := DecodeHeartbeat(o.plain, &s.hb); err != nil {
		return s.name, nil, err
	}
	s.hb.Sequence = binary.LittleEndian.Uint64(header[12:])
	return s.name, &s.hb, nil
}
