// Package arbiter is a node's end of an arbiter: a server outside of the
// cluster that is one of its coordination points (package witness). The server
// is package arbiterd, its commands are package arbitercmd.
//
// A [Client] carries requests to one arbiter and answers back. It decides
// nothing. [Register] makes an arbiter know a cluster.
//
//	C1  nothing is asked before the server has proven the key that the cluster's
//	    configuration says, and no answer is believed before it has named the instance
//	C2  an answer belongs to the request that it is given for
//	C3  an idle client holds no connection. It looks by datagram, with a pass
//	    that it was given over a connection, and over a connection where no
//	    datagram gets through
//	C4  a look is answered from memory only within the time that the arbiter has
//	    asked for, and not after anything else has failed
//
// The caller bounds each request by its context; a request that got no answer
// may have been carried out, at any later time too, as any message may.
//
// Frames, datagrams and tokens are described in docs/formats/arbiter.md.
package arbiter

import (
	"errors"
	"time"

	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterpb"
)

const (
	// ALPN protocol of connections.
	ALPN = "holdfast-arbiter/1"
	// Protocol versions of frames that this release speaks.
	ProtocolMin = 1
	ProtocolMax = 1
	// FrameMax bounds a frame in bytes: the largest register several times over.
	FrameMax = 32 << 10
	// InFlight is how many requests of a connection an arbiter takes at a time.
	// Further ones wait on their way.
	InFlight = 16
	// DefaultPort of an arbiter, TCP and UDP.
	DefaultPort = "7947"
	// AuthoritiesMax of one cluster, while one takes the place of another.
	AuthoritiesMax = 4
	// AuthorityBytesMax of one authority's certificate (DER).
	AuthorityBytesMax = 4 << 10
)

// Classes of errors. The texts say what to do.
var (
	// ErrUnreachable: no connection, or it broke.
	ErrUnreachable = errors.New("arbiter can't be reached")
	// ErrWrongKey: somebody else answers at the arbiter's address.
	ErrWrongKey = errors.New("arbiter has another key")
	// ErrInstance: an arbiter that has forgotten what it promised, or another one.
	ErrInstance = errors.New("another arbiter, or one that was restored")
	// ErrVersion: the releases don't understand each other.
	ErrVersion = errors.New("arbiter speaks other protocol versions")
	// ErrCertificate: the arbiter does not take this node's certificate.
	ErrCertificate = errors.New("arbiter does not accept this node's certificate")
	// ErrExpired: this node's certificate is not valid now.
	ErrExpired = errors.New("certificate is not valid now")
	// ErrNotRegistered: the arbiter does not know the cluster.
	ErrNotRegistered = errors.New("cluster is not registered at the arbiter")
	// ErrForgotten: the arbiter was told to forget the cluster.
	ErrForgotten = errors.New("cluster was forgotten by the arbiter")
	// ErrToken: the token is wrong, used, or expired.
	ErrToken = errors.New("token is not accepted")
	// ErrBusy: try again later.
	ErrBusy = errors.New("arbiter is busy")
	// ErrProtocol: what came is no answer.
	ErrProtocol = errors.New("arbiter gave an answer that makes no sense")
)

// A RefusedError is what an arbiter says when it refuses a connection or a frame.
type RefusedError struct {
	Code    arbiterpb.Refusal_Code
	Message string
}

func (e *RefusedError) Error() string { return e.Unwrap().Error() + ": " + e.Message }

// Unwrap to the class of error.
func (e *RefusedError) Unwrap() error {
	switch e.Code {
	case arbiterpb.Refusal_CODE_VERSION:
		return ErrVersion
	case arbiterpb.Refusal_CODE_INSTANCE:
		return ErrInstance
	case arbiterpb.Refusal_CODE_CERTIFICATE, arbiterpb.Refusal_CODE_AUTHORITY:
		return ErrCertificate
	case arbiterpb.Refusal_CODE_EXPIRED:
		return ErrExpired
	case arbiterpb.Refusal_CODE_NOT_REGISTERED:
		return ErrNotRegistered
	case arbiterpb.Refusal_CODE_FORGOTTEN:
		return ErrForgotten
	case arbiterpb.Refusal_CODE_TOKEN:
		return ErrToken
	case arbiterpb.Refusal_CODE_BUSY:
		return ErrBusy
	}
	return ErrProtocol
}

func refusal(r *arbiterpb.Refusal) error {
	return &RefusedError{Code: r.GetCode(), Message: r.GetMessage()}
}

// How long the parts of a client's work may take.
const (
	// dialLimit of connecting, handshake and welcome.
	dialLimit = 5 * time.Second
	// requestLimit where the caller's context has no end.
	requestLimit = 10 * time.Second
	// idleLimit after which an unused connection is closed.
	idleLimit = 60 * time.Second
	// lookTry is how long the answer to a datagram is waited for; to the next one
	// twice as long. An arbiter that is asked a lot gathers them for a tenth of a second.
	lookTry   = 400 * time.Millisecond
	lookTries = 2
)
