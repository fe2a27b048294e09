// Package witness is the tie-breaking voter that all coordination points of a
// cluster form together.
package witness
