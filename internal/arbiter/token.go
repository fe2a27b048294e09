package arbiter

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"strings"
	"time"
)

// Sizes of a token's parts in bytes.
const (
	InstanceSize    = 16
	FingerprintSize = sha256.Size
	SecretSize      = 16
	tokenFixed      = 1 + InstanceSize + FingerprintSize + SecretSize + 8 + 1
	tokenSum        = 4
	addressMax      = 255

	tokenPrefix  = "hfa-"
	tokenVersion = 1
)

// Token admits one cluster to one arbiter, once.
type Token struct {
	// Address of the arbiter, host:port.
	Address string
	// Fingerprint is the SHA-256 of the arbiter's SubjectPublicKeyInfo.
	Fingerprint [FingerprintSize]byte
	Instance    [InstanceSize]byte
	// Secret that only the token holds. The arbiter keeps its hash.
	Secret [SecretSize]byte
	// Expires: whole seconds. For people; the arbiter has its own word on it.
	Expires time.Time
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// String is the token as it is handed over: one word without white space.
func (t Token) String() string {
	b := make([]byte, 0, tokenFixed+len(t.Address)+tokenSum)
	b = append(b, tokenVersion)
	b = append(b, t.Instance[:]...)
	b = append(b, t.Fingerprint[:]...)
	b = append(b, t.Secret[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(t.Expires.Unix()))
	b = append(b, byte(len(t.Address)))
	b = append(b, t.Address...)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// ParseToken reads what String has written.
func ParseToken(s string) (Token, error) {
	var t Token
	bad := func(why string) (Token, error) {
		return Token{}, fmt.Errorf("%w: %s; copy the whole line that holdfast arbiter token printed", ErrToken, why)
	}
	body, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	if !ok {
		return bad("it does not begin with " + tokenPrefix)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil {
		return bad("it holds other characters than tokens do, or a part of it is missing")
	}
	if len(b) < tokenFixed+tokenSum {
		return bad("it is too short")
	}
	b, sum := b[:len(b)-tokenSum], b[len(b)-tokenSum:]
	switch {
	case crc32.Checksum(b, castagnoli) != binary.LittleEndian.Uint32(sum):
		return bad("it was changed on its way")
	case b[0] != tokenVersion:
		return Token{}, fmt.Errorf("%w: it has version %d, this release knows version %d: use the release of the arbiter, or a later one", ErrToken, b[0], tokenVersion)
	case int(b[tokenFixed-1]) != len(b)-tokenFixed:
		return bad("its parts don't fit together")
	}
	b = b[1:]
	b = b[copy(t.Instance[:], b):]
	b = b[copy(t.Fingerprint[:], b):]
	b = b[copy(t.Secret[:], b):]
	t.Expires = time.Unix(int64(binary.LittleEndian.Uint64(b)), 0).UTC()
	t.Address = string(b[9:])
	if err := CheckAddress(t.Address); err != nil {
		return bad(err.Error())
	}
	return t, nil
}

// CheckAddress says what is wrong with the address of an arbiter.
func CheckAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err == nil && (host == "" || port == "" || port == "0") {
		err = errors.New("both parts must be given")
	}
	if err == nil && (len(address) > addressMax || strings.ContainsFunc(address, func(r rune) bool { return r <= ' ' || r > '~' })) {
		err = fmt.Errorf("it is longer than %d characters or holds strange ones", addressMax)
	}
	if err != nil {
		return fmt.Errorf("%q is no address of an arbiter (HOST:PORT): %w", address, err)
	}
	return nil
}

// FingerprintText of a token's fingerprint, as ArbiterPoint has it.
func (t Token) FingerprintText() string { return hex.EncodeToString(t.Fingerprint[:]) }

// InstanceText as ArbiterPoint has it.
func (t Token) InstanceText() string { return hex.EncodeToString(t.Instance[:]) }
