"""The benchmark's peers in Python. One process runs one request at a time, so that its runs alternate with ours.

A request is a line of JSON on standard input, {"do": …}. The answer is a line on standard output: seconds, and the size of
the result in bytes, 0 if there is none. The process and its workers end when standard input ends.

    open      path                                      reads the picture of the requests that follow
    job       threads      OpenCV: decode, Sobel, encode as PNG
    decode    threads      OpenCV: PNG to grey
    encode    threads      OpenCV: its edges to PNG
    sobel     threads, depth                            OpenCV: the exact magnitude, in CV_64F or CV_32F
    start     amqp, redis, workers                      starts the workers of the course's design
    course    workers                                   runs one job of the course's design

The course's design cuts a picture into one band a worker, without a halo. It sends each band as base64 in JSON through
RabbitMQ, processes it with OpenCV, polls Redis for the results and joins them. Here it is lossless and does not sleep.
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
        # No heartbeat: the connection is idle while another peer runs, and RabbitMQ would close it.
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
