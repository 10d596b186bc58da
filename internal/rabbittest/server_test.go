package rabbittest

import (
	"errors"
	"strings"
	"testing"
)

// What a running broker can be made to do is tested by the tests that run one.

func TestMissingBinary(t *testing.T) {
	t.Setenv(BinaryVariable, "/nowhere/rabbitmq-server")
	_, err := Run(t.Context())
	if !errors.Is(err, ErrNoBinary) || !strings.Contains(err.Error(), "scripts/install rabbitmq-server") {
		t.Errorf("Run without a binary gave %v, want ErrNoBinary and how to install one", err)
	}
}
