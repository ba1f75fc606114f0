"""A worker in Python, with OpenCV: the Sobel edges of one band after another.

    apt-get install python3-pika python3-redis python3-opencv
    RABBITMQ_URL=amqp://guest:guest@127.0.0.1 REDIS_URL=redis://127.0.0.1 /usr/bin/python3 examples/worker.py

It takes a band off the queue, sets a key, and acknowledges. The halo may stay on. docs/wire.md describes the messages.

It does not reconnect. Without RabbitMQ or Redis it exits, and its band goes to another worker; let a supervisor restart
it (systemd: Restart=always). It sends no heartbeat, so it is not in the list of workers.
"""
import base64, json, os, time
import cv2, numpy as np, pika, redis

name = os.environ.get("WORKER_NAME", f"python-{os.getpid()}")
store = redis.Redis.from_url(os.environ["REDIS_URL"])
channel = pika.BlockingConnection(pika.URLParameters(os.environ["RABBITMQ_URL"])).channel()
# Declared passively: the coordinator sets the queue's arguments, and other arguments are an error.
channel.queue_declare("tareas", passive=True)
# One band at a time: the others go to idle workers.
channel.basic_qos(prefetch_count=1)


def on_task(ch, method, properties, body):
    began = time.perf_counter()
    task = json.loads(body)
    grey = cv2.imdecode(np.frombuffer(base64.b64decode(task["imagen"]), np.uint8), cv2.IMREAD_GRAYSCALE)
    decoded = time.perf_counter()
    # Exact for 8 bits, and faster than CV_64F.
    gx, gy = cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=3), cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=3)
    edges = cv2.convertScaleAbs(cv2.magnitude(gx, gy))
    # A PGM is not compressed: the encoder of PNG would take longer than all the rest.
    picture = base64.b64encode(cv2.imencode(".pgm", edges)[1])
    computed = time.perf_counter()
    store.set(f"resultado:{task['chunk_id']}", picture, ex=3600)
    # Optional: the coordinator knows at once, and the page shows which worker did the band, and its time.
    job, band = task["chunk_id"].split(":")
    spans = {"decode": decoded - began, "ms": computed - decoded, "store": time.perf_counter() - computed}
    report = {"band": int(band), "worker": name, **{part: 1000 * seconds for part, seconds in spans.items()}}
    store.publish(f"job:{job}", json.dumps(report))
    # Only after the result is stored: a band without an acknowledgement goes to another worker when this one dies.
    ch.basic_ack(method.delivery_tag)


channel.basic_consume("tareas", on_task)
print("at work", flush=True)
channel.start_consuming()
