// Package secret keeps passwords out of what people read. Servers and proxies that do not know a command repeat its arguments in their answer,
// and HELLO and AUTH have the password among them.
package secret

import (
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/redis/rueidis"
)

// kept is how many secrets are remembered. Credentials that are renewed all the time must not add up, and an answer speaks of recent ones.
const kept = 8

// A Keeper knows the secrets of a client. The zero Keeper knows none. Its methods may be called from any goroutine.
type Keeper struct {
	mu    sync.Mutex
	known []string
}

// Add remembers a secret.
func (k *Keeper) Add(secret string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if secret == "" || slices.Contains(k.known, secret) {
		return
	}
	k.known = append(k.known[max(0, len(k.known)+1-kept):len(k.known):len(k.known)], secret)
}

// Watch remembers the passwords of an option, and has every password that its AuthCredentialsFn returns remembered.
func (k *Keeper) Watch(option *rueidis.ClientOption) {
	k.Add(option.Password)
	k.Add(option.Sentinel.Password)
	ask := option.AuthCredentialsFn
	if ask == nil {
		return
	}
	option.AuthCredentialsFn = func(about rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) {
		credentials, err := ask(about)
		k.Add(credentials.Password)
		return credentials, err
	}
}

// Redact returns err, or, if its text contains a secret, an error with the same text without it, which wraps nothing.
func (k *Keeper) Redact(err error) error {
	if !k.In(err) {
		return err
	}
	text := err.Error()
	for _, secret := range k.all() {
		text = strings.ReplaceAll(text, secret, "***")
	}
	return errors.New(text)
}

// In reports whether the text of an error contains a secret.
func (k *Keeper) In(err error) bool {
	if err == nil {
		return false
	}
	known := k.all()
	if len(known) == 0 {
		return false
	}
	text := err.Error()
	return slices.ContainsFunc(known, func(secret string) bool { return strings.Contains(text, secret) })
}

// all returns what is known, which nobody may change.
func (k *Keeper) all() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.known
}
