package secret

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/redis/rueidis"
)

func TestRedact(t *testing.T) {
	t.Parallel()
	var k Keeper
	cause := errors.New("ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' 'hunter2'")
	if err := k.Redact(cause); !errors.Is(err, cause) || k.In(cause) {
		t.Errorf("without secrets: %v", err)
	}
	k.Add("")
	k.Add("hunter2")
	if err := k.Redact(cause); strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "unknown command 'HELLO'") {
		t.Errorf("%v", err)
	}
	if other := errors.New("connection refused"); !errors.Is(k.Redact(other), other) || k.Redact(nil) != nil || k.In(nil) || !k.In(cause) {
		t.Error("what holds no secret is changed")
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	var k Keeper
	n := 0
	option := rueidis.ClientOption{Password: "fixed", AuthCredentialsFn: func(rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) {
		n++
		return rueidis.AuthCredentials{Password: fmt.Sprintf("token-%04d", n)}, nil
	}}
	k.Watch(&option)
	if err := k.Redact(errors.New("fixed")); err.Error() != "***" {
		t.Errorf("%v", err)
	}
	for range 1000 {
		if _, err := option.AuthCredentialsFn(rueidis.AuthCredentialsContext{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.Redact(errors.New("token-1000 and token-0994")); err.Error() != "*** and ***" {
		t.Errorf("%v", err)
	}
	if len(k.known) != kept {
		t.Errorf("%d secrets are kept", len(k.known))
	}
}
