"""The worker of the course's practical work, as its report describes it. docs/wire.md changes one line of it."""
import base64, json, os
import cv2, numpy as np, pika, redis

store = redis.Redis.from_url(os.environ["REDIS_URL"])
channel = pika.BlockingConnection(pika.URLParameters(os.environ["RABBITMQ_URL"])).channel()
channel.queue_declare(queue="tareas")


def on_task(ch, method, properties, body):
    task = json.loads(body)
    grey = cv2.imdecode(np.frombuffer(base64.b64decode(task["imagen"]), np.uint8), cv2.IMREAD_GRAYSCALE)
    gx, gy = cv2.Sobel(grey, cv2.CV_64F, 1, 0, ksize=3), cv2.Sobel(grey, cv2.CV_64F, 0, 1, ksize=3)
    edges = cv2.convertScaleAbs(cv2.magnitude(gx, gy))
    store.set(f"resultado:{task['chunk_id']}", base64.b64encode(cv2.imencode(".png", edges)[1]))


channel.basic_consume(queue="tareas", on_message_callback=on_task, auto_ack=True)
print("at work", flush=True)
channel.start_consuming()
