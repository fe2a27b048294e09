// Package deliver tells one event through one notifier: a program, mail, an
// SNMP trap or a webhook.
//
// [Send] tries once and says what came of it; when to try again is for package
// notify to decide. Every way has a limit of its own, so that Send returns.
//
//	D1  secrets are read from their files when they are needed; they go to the other side only, never into an error
//	D2  no text of an event can become a header, an argument or a command
//	D3  an event has one name on all ways, by which a repeated one can be told: the cluster's uuid and its number
package deliver
