"""A worker in Python: the Sobel of a course's project, with OpenCV, as one more of the fleet.

    apt-get install python3-pika python3-redis python3-opencv
    RABBITMQ_URL=amqp://guest:guest@127.0.0.1 REDIS_URL=redis://127.0.0.1 /usr/bin/python3 examples/worker.py

It takes a band off the queue, sets a key, acknowledges. The halo may stay on; all of it is told in docs/wire.md.

Left out: it does not connect again. When RabbitMQ or Redis goes away it ends, and the band in hand goes to another; let
whatever runs it start it anew (systemd's Restart=always). Nor does it beat its heart, so the page does not show it.
"""
import base64, json, os
import cv2, numpy as np, pika, redis

store = redis.Redis.from_url(os.environ["REDIS_URL"])
channel = pika.BlockingConnection(pika.URLParameters(os.environ["RABBITMQ_URL"])).channel()
# Only looked for: the coordinator has declared it, and to declare it otherwise is an error.
channel.queue_declare("tareas", passive=True)
# One band at a time: the others are for whoever is free.
channel.basic_qos(prefetch_count=1)


def on_task(ch, method, properties, body):
    task = json.loads(body)
    grey = cv2.imdecode(np.frombuffer(base64.b64decode(task["imagen"]), np.uint8), cv2.IMREAD_GRAYSCALE)
    gx, gy = cv2.Sobel(grey, cv2.CV_64F, 1, 0, ksize=3), cv2.Sobel(grey, cv2.CV_64F, 0, 1, ksize=3)
    edges = cv2.convertScaleAbs(cv2.magnitude(gx, gy))
    store.set(f"resultado:{task['chunk_id']}", base64.b64encode(cv2.imencode(".png", edges)[1]), ex=3600)
    # Only now: a band that is not acknowledged goes to another worker when this one dies.
    ch.basic_ack(method.delivery_tag)


channel.basic_consume("tareas", on_task)
print("at work", flush=True)
channel.start_consuming()
