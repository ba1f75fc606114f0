// A worker in Go: the Sobel edges of one band after another. docs/wire.md describes the messages.
//
//	go mod init worker && go get github.com/rabbitmq/amqp091-go github.com/gomodule/redigo/redis
//	RABBITMQ_URL=amqp://guest:guest@127.0.0.1 REDIS_URL=redis://127.0.0.1 go run worker.go
//
// On Debian, without a network: apt-get install golang-go golang-github-rabbitmq-amqp091-go-dev
// golang-github-gomodule-redigo-dev, then GO111MODULE=off GOPATH=/usr/share/gocode go run examples/worker.go
//
// Without RabbitMQ it exits, and its band goes to another worker. Let a supervisor restart it (systemd).
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"log"
	"math"
	"os"

	"github.com/gomodule/redigo/redis"
	amqp "github.com/rabbitmq/amqp091-go"
)

func main() {
	store := must(redis.DialURL(os.Getenv("REDIS_URL")))
	channel := must(must(amqp.Dial(os.Getenv("RABBITMQ_URL"))).Channel())
	// Declared passively: the coordinator sets the queue's arguments, and other arguments are an error.
	must(channel.QueueDeclarePassive("tareas", true, false, false, false, nil))
	// One band at a time: the others go to idle workers.
	must(0, channel.Qos(1, 0, false))
	bands := must(channel.Consume("tareas", "", false, false, false, false, nil))
	fmt.Println("at work")
	for band := range bands {
		var task struct {
			ChunkID string `json:"chunk_id"`
			Imagen  []byte // encoding/json decodes the base64
		}
		must(0, json.Unmarshal(band.Body, &task))
		grey := must(png.Decode(bytes.NewReader(task.Imagen))).(*image.Gray)
		// A PGM: a line of text, then the pixels.
		pgm := fmt.Appendf(nil, "P5 %d %d 255\n", grey.Rect.Dx(), grey.Rect.Dy())
		value := base64.StdEncoding.EncodeToString(append(pgm, sobel(grey).Pix...))
		must(store.Do("SET", "resultado:"+task.ChunkID, value, "EX", 3600))
		// Only after the result is stored: a band without an acknowledgement goes to another worker when this one dies.
		must(0, band.Ack(false))
	}
}

// The first and the last row are halo: they stay 0, and the coordinator cuts them off. Columns are mirrored.
func sobel(grey *image.Gray) *image.Gray {
	edges := image.NewGray(grey.Rect)
	width, height := grey.Rect.Dx(), grey.Rect.Dy()
	mirrored := func(x int) int {
		switch {
		case width == 1:
			return 0
		case x < 0:
			return 1
		case x == width:
			return width - 2
		}
		return x
	}
	for y := 1; y < height-1; y++ {
		for x := 0; x < width; x++ {
			left, right := mirrored(x-1), mirrored(x+1)
			at := func(x, dy int) int { return int(grey.Pix[(y+dy)*grey.Stride+x]) }
			gx := at(right, -1) + 2*at(right, 0) + at(right, 1) - at(left, -1) - 2*at(left, 0) - at(left, 1)
			gy := at(left, 1) + 2*at(x, 1) + at(right, 1) - at(left, -1) - 2*at(x, -1) - at(right, -1)
			edges.Pix[y*edges.Stride+x] = uint8(math.Min(255, math.Round(math.Sqrt(float64(gx*gx+gy*gy)))))
		}
	}
	return edges
}

// An error ends the program: RabbitMQ then redelivers the band.
func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
