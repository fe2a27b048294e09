//go:build holdfast_next

package peer

// ProtocolMax of a build that stands for the next release in tests of rolling upgrades.
const ProtocolMax = 2
