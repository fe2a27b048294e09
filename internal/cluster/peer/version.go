//go:build !holdfast_next

package peer

// ProtocolMax is the highest version of the protocol that this program speaks.
const ProtocolMax = 1
