package codecs_test

import (
	"context"
	"fmt"
	"log"

	"github.com/vmihailenco/msgpack/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// messagePack stores any value that has fields.
func messagePack[V any]() nearcache.Codec[V] {
	return nearcache.Codec[V]{
		Encode: func(value V) ([]byte, error) { return msgpack.Marshal(value) },
		Decode: func(data []byte) (value V, err error) {
			err = msgpack.Unmarshal(data, &value)
			return value, err
		},
	}
}

// protobuf stores messages: M is the generated struct.
func protobuf[M any, P interface {
	*M
	proto.Message
}]() nearcache.Codec[P] {
	return nearcache.Codec[P]{
		Encode: func(message P) ([]byte, error) { return proto.Marshal(message) },
		Decode: func(data []byte) (P, error) { message := P(new(M)); return message, proto.Unmarshal(data, message) },
	}
}

type user struct{ ID, Name string }

func Example() {
	ctx := context.Background()
	server, err := redistest.Run(ctx, redistest.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client, err := nearcache.Open(ctx, nearcache.Options{Redis: server.ClientOption(), Prefixes: []string{"user:", "name:"}})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(ctx)

	users, err := nearcache.New(client, nearcache.Config[user]{Name: "users", Prefix: "user:", Codec: messagePack[user]()})
	if err != nil {
		log.Fatal(err)
	}
	// In place of wrapperspb.StringValue, a message of yours.
	names, err := nearcache.New(client, nearcache.Config[*wrapperspb.StringValue]{Name: "names", Prefix: "name:", Codec: protobuf[wrapperspb.StringValue]()})
	if err != nil {
		log.Fatal(err)
	}

	if err := users.Set(ctx, "42", user{"42", "Ada"}); err != nil {
		log.Fatal(err)
	}
	if err := names.Set(ctx, "42", wrapperspb.String("Ada Lovelace")); err != nil {
		log.Fatal(err)
	}
	u, err := users.Get(ctx, "42")
	fmt.Println(u.Name, err)
	name, err := names.Get(ctx, "42")
	fmt.Println(name.GetValue(), err)

	// Output:
	// Ada <nil>
	// Ada Lovelace <nil>
}
