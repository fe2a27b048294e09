package api

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
)

// Codes of errors. They are stable: a code is never given another meaning, and
// one that is no longer used is not used again. docs/codes.md lists them.
const (
	CodeUsage         = "HF1001"
	CodeBadConfig     = "HF1002"
	CodeBadRequest    = "HF1003"
	CodeStale         = state.CodeStale
	CodeNotFound      = state.CodeNotFound
	CodeInvalid       = state.CodeInvalid
	CodeConflict      = state.CodeConflict
	CodeNoQuorum      = "HF3001"
	CodeUnknown       = "HF3002"
	CodeFailed        = "HF3003"
	CodeWaitedTooLong = "HF3004"
	CodePoint         = "HF3005"
	CodeUnreachable   = "HF4001"
	CodeNotAllowed    = "HF4002"
	CodeRole          = "HF4003"
	CodeInternal      = "HF9001"
)

// Exit statuses of the commands.
const (
	ExitOK          = 0
	ExitError       = 1
	ExitUsage       = 2
	ExitNoQuorum    = 3
	ExitRefused     = 4
	ExitTimedOut    = 5
	ExitNotFound    = 6
	ExitUnreachable = 7
	// ExitGivenUp is clusterd's, to guard.
	ExitGivenUp = 10
)

// An ExitStatus is documented in docs/codes.md.
type ExitStatus struct {
	Status  int
	Meaning string
}

// ExitStatuses lists all of them.
var ExitStatuses = []ExitStatus{
	{ExitOK, "Done. With `--no-wait`: accepted."},
	{ExitError, "It failed: an operation ended without success, or something unexpected happened."},
	{ExitUsage, "The command line, a file or a value is wrong. Nothing was changed."},
	{ExitNoQuorum, "There is no quorum, so nothing can be changed now."},
	{ExitRefused, "Refused in the present state: something else has to happen first. Nothing was changed."},
	{ExitTimedOut, "Waited in vain. What was begun goes on; the message says how to follow it."},
	{ExitNotFound, "A node, group, resource, type or operation of that name does not exist."},
	{ExitUnreachable, "No daemon can be reached, or it does not talk to this user."},
	{ExitGivenUp, "Of the daemon only: this node can't go on, and starting it again does not help before somebody has acted; its log says how. Guard does not restart it."},
}

// A Code is one kind of error.
type Code struct {
	Code string
	// Exit status of a command that fails with it.
	Exit    int
	Connect connect.Code
	Meaning string
	// Do says what helps.
	Do string
}

// Codes is the table of all error codes.
var Codes = []Code{
	{CodeUsage, ExitUsage, connect.CodeInvalidArgument, "The command line is wrong.", "`holdfast help COMMAND` shows the right one."},
	{CodeBadConfig, ExitUsage, connect.CodeInvalidArgument, "A configuration has faults; all of them are listed.", "Mend them and apply again. Nothing was changed."},
	{CodeBadRequest, ExitUsage, connect.CodeInvalidArgument, "A value in a request is missing or out of range.", "The message says what is allowed."},
	{CodeStale, ExitRefused, connect.CodeAborted, "The change was made from a state that is no longer current.", "Look again (`holdfast export`, `holdfast status`), then repeat the change."},
	{CodeNotFound, ExitNotFound, connect.CodeNotFound, "It names something that does not exist.", "The list command of that noun shows what there is."},
	{CodeInvalid, ExitUsage, connect.CodeInvalidArgument, "It could not be carried out in any state.", "The message says what is missing."},
	{CodeConflict, ExitRefused, connect.CodeFailedPrecondition, "Something else has to happen first.", "The message says what."},
	{CodeNoQuorum, ExitNoQuorum, connect.CodeUnavailable, "This node is not part of a quorum, so it can't commit changes.", "`holdfast status` and `holdfast link list` show who is missing; ask a node of the other side."},
	{CodeUnknown, ExitTimedOut, connect.CodeDeadlineExceeded, "The change was proposed, but it is not known yet whether it was committed.", "`holdfast status` shows whether it came about; repeating it does no harm."},
	{CodeFailed, ExitError, connect.CodeUnknown, "An operation ended without success.", "`holdfast explain group GROUP` and `holdfast events` tell why."},
	{CodeWaitedTooLong, ExitTimedOut, connect.CodeDeadlineExceeded, "The operation had not ended when the time to wait was over. It goes on.", "Wait longer with `--timeout`, or look with `holdfast status`."},
	{CodePoint, ExitRefused, connect.CodeFailedPrecondition, "A coordination point can't be used by all nodes; each reason is listed.", "Mend them (`docs/quorum.md`) and repeat the command. The points stay as they were."},
	{CodeUnreachable, ExitUnreachable, connect.CodeUnavailable, "No daemon answers at the API address.", "Start it (`systemctl start holdfast`), or name another with `--api` or `HOLDFAST_API`."},
	{CodeNotAllowed, ExitUnreachable, connect.CodePermissionDenied, "The daemon does not talk to this user or certificate.", "Use root, or have an administrator add this user (`holdfast user add`)."},
	{CodeRole, ExitRefused, connect.CodePermissionDenied, "The user's role does not allow it.", "`holdfast user whoami` shows the roles; an administrator can give others (`holdfast user add`)."},
	{CodeInternal, ExitError, connect.CodeInternal, "Something unexpected happened in the daemon.", "Its log has more; please report it."},
}

// CodeOf finds a code in the table; an unknown one counts as a refusal, for it
// comes from a newer version.
func CodeOf(code string) Code {
	for _, c := range Codes {
		if c.Code == code {
			return c
		}
	}
	return Code{Code: code, Exit: ExitRefused, Connect: connect.CodeFailedPrecondition}
}

// fail makes the error with which a call is answered.
func fail(code, next, format string, args ...any) error {
	return failWith(&v1.ErrorDetail{Code: code, NextStep: next}, fmt.Sprintf(format, args...))
}

func failWith(d *v1.ErrorDetail, message string) error {
	e := connect.NewError(CodeOf(d.GetCode()).Connect, errors.New(message))
	detail, err := connect.NewErrorDetail(d)
	if err != nil {
		panic(fmt.Sprintf("api: an error detail of our own: %v", err))
	}
	e.AddDetail(detail)
	return e
}

// answered turns an error of the backend into that of a call.
func answered(err error) error {
	var refusal *Refusal
	var done *connect.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &done):
		return err
	case errors.As(err, &refusal):
		return failWith(&v1.ErrorDetail{Code: refusal.Code}, refusal.Message)
	case errors.Is(err, context.Canceled):
		return connect.NewError(connect.CodeCanceled, err)
	case errors.Is(err, context.DeadlineExceeded):
		return fail(CodeUnknown, "see whether it came about with: holdfast status", "the change was proposed, but nobody confirmed in time that it was committed")
	default:
		return fail(CodeInternal, "", "%v", err)
	}
}
