"""The benchmark's peers in Python: one process that is asked for one run at a time, so that runs alternate with ours.

A request is a line of JSON on standard input, {"do": …}; the answer is one on standard output: seconds, and bytes of the
result where there is one. At the end of the input it ends, and with it whatever it has started.

    open      path                                      reads the picture that the other requests are about
    job       threads      OpenCV: decode, Sobel, encode as PNG
    decode    threads      OpenCV: PNG to grey
    encode    threads      OpenCV: its edges to PNG
    sobel     threads, depth                            OpenCV: the exact magnitude, by way of CV_64F or CV_32F
    start     amqp, redis, workers                      starts the workers of the course's design
    course    workers                                   one job of it

The course's design, as a report on distributed computing has it: a picture cut into as many bands as there are workers,
without the rows between them; each as base64 in JSON through RabbitMQ; OpenCV on the other side; results polled from
Redis and joined. Lossless here, and without its sleeps.
"""

import base64
import json
import subprocess
import sys
import time
import uuid

import cv2
import numpy as np

QUEUE = "course"


def magnitude(grey, depth):
    gx, gy = cv2.Sobel(grey, depth, 1, 0, ksize=3), cv2.Sobel(grey, depth, 0, 1, ksize=3)
    return cv2.convertScaleAbs(cv2.magnitude(gx, gy))


def decode(data, colour=cv2.IMREAD_GRAYSCALE):
    return cv2.imdecode(np.frombuffer(data, np.uint8), colour)


class Course:
    def __init__(self, amqp, redis_port):
        import pika
        import redis

        self.store = redis.Redis(port=redis_port)
        # A connection that says nothing while another peer runs must not be taken for dead.
        parameters = pika.ConnectionParameters("127.0.0.1", amqp, heartbeat=0)
        self.channel = pika.BlockingConnection(parameters).channel()
        self.channel.queue_declare(queue=QUEUE)

    def work(self):
        cv2.setNumThreads(1)

        def on_task(_channel, _method, _properties, body):
            task = json.loads(body)
            edges = magnitude(decode(base64.b64decode(task["imagen"])), cv2.CV_64F)
            value = base64.b64encode(cv2.imencode(".png", edges)[1])
            self.store.set(f"resultado:{task['chunk_id']}", value)

        self.channel.basic_consume(queue=QUEUE, on_message_callback=on_task, auto_ack=True)
        self.channel.start_consuming()

    def consumers(self):
        return self.channel.queue_declare(queue=QUEUE, passive=True).method.consumer_count

    def job(self, data, workers):
        name = uuid.uuid4().hex
        for n, band in enumerate(np.array_split(decode(data, cv2.IMREAD_COLOR), workers)):
            imagen = base64.b64encode(cv2.imencode(".png", band)[1]).decode()
            self.channel.basic_publish("", QUEUE, json.dumps({"chunk_id": f"{name}:{n}", "imagen": imagen}))
        bands = []
        for n in range(workers):
            key = f"resultado:{name}:{n}"
            while not (value := self.store.get(key)):
                time.sleep(0.005)
            bands.append(decode(base64.b64decode(value)))
            self.store.delete(key)
        return cv2.imencode(".png", np.vstack(bands))[1]


class Peer:
    data = grey = edges = design = None
    fleet = []

    def open(self, path):
        self.data = np.fromfile(path, np.uint8)
        self.grey = decode(self.data)
        self.edges = magnitude(self.grey, cv2.CV_64F)

    def job(self):
        return len(cv2.imencode(".png", magnitude(decode(self.data), cv2.CV_32F))[1])

    def decode(self):
        decode(self.data)

    def encode(self):
        return len(cv2.imencode(".png", self.edges)[1])

    def sobel(self, depth):
        magnitude(self.grey, getattr(cv2, depth))

    def start(self, amqp, redis, workers):
        self.design = Course(amqp, redis)
        command = [sys.executable, __file__, "--worker", str(amqp), str(redis)]
        self.fleet += [subprocess.Popen(command) for _ in range(workers)]
        while self.design.consumers() < workers:
            time.sleep(0.1)

    def course(self, workers):
        return len(self.design.job(self.data, workers))


def main():
    peer = Peer()
    try:
        for line in sys.stdin:
            request = json.loads(line)
            do = request.pop("do")
            cv2.setNumThreads(request.pop("threads", 1))
            start = time.perf_counter()
            answer = getattr(peer, do)(**request)
            seconds = time.perf_counter() - start
            print(json.dumps({"seconds": seconds, "bytes": answer or 0}), flush=True)
    finally:
        for worker in peer.fleet:
            worker.kill()


if sys.argv[1:2] == ["--worker"]:
    Course(int(sys.argv[2]), int(sys.argv[3])).work()
else:
    main()
