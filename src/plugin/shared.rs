//! What the plugins of one `vm_id` share: values by key, which a plugin may replace only where it has seen the last, and
//! queues. Both are bounded together.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use super::view::Status;

/// What each entry costs beside its bytes.
const OVERHEAD: usize = 64;
const MOST_QUEUES: usize = 1000;

/// By `vm_id`, for as long as a plugin has it.
#[derive(Default)]
pub(super) struct Rooms {
    rooms: Mutex<BTreeMap<Arc<str>, Weak<Shared>>>,
    /// How many queues there have been: no two have one number.
    queues: Arc<AtomicU32>,
}

#[derive(Default)]
pub(super) struct Shared {
    inner: Mutex<Inner>,
    numbers: Arc<AtomicU32>,
}

#[derive(Default)]
struct Inner {
    values: HashMap<Vec<u8>, (Vec<u8>, u32)>,
    /// The next `cas`. Never 0, which stands for "whatever".
    next: u32,
    queues: Vec<Queue>,
    bytes: usize,
}

struct Queue {
    number: u32,
    name: Vec<u8>,
    parts: VecDeque<Vec<u8>>,
    /// Who hears of what comes: the last that registered.
    listener: Option<Listener>,
}

/// A root context of an instance.
#[derive(Clone)]
pub(super) struct Listener {
    pub plugin: Weak<super::Plugin>,
    pub slot: usize,
    pub root: u32,
}

impl Rooms {
    pub(super) fn of(&self, vm_id: &Arc<str>) -> Arc<Shared> {
        let mut rooms = self.lock();
        rooms.retain(|_, room| room.strong_count() > 0);
        if let Some(room) = rooms.get(vm_id).and_then(Weak::upgrade) {
            return room;
        }
        let room = Arc::new(Shared { inner: Mutex::default(), numbers: self.queues.clone() });
        rooms.insert(vm_id.clone(), Arc::downgrade(&room));
        room
    }

    pub(super) fn find(&self, vm_id: &str) -> Option<Arc<Shared>> {
        self.lock().get(vm_id)?.upgrade()
    }

    /// Where this queue is.
    pub(super) fn with_queue(&self, number: u32) -> Option<Arc<Shared>> {
        let rooms: Vec<_> = self.lock().values().filter_map(Weak::upgrade).collect();
        rooms.into_iter().find(|room| room.lock().queue(number).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Weak<Shared>>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    pub(super) fn value(&self, key: &[u8]) -> Result<(Vec<u8>, u32), Status> {
        self.lock().values.get(key).cloned().ok_or(Status::NotFound)
    }

    /// `cas` is what was last seen of the key; 0 is "whatever", and a key that is not there has none. `most` is the room.
    pub(super) fn set(&self, key: &[u8], value: &[u8], cas: u32, most: usize) -> Result<(), Status> {
        let mut inner = self.lock();
        let before = inner.values.get(key).map(|(value, cas)| (value.len(), *cas));
        if before.is_some_and(|(_, seen)| cas != 0 && cas != seen) {
            return Err(Status::CasMismatch);
        }
        let freed = before.map_or(0, |(length, _)| key.len() + length + OVERHEAD);
        let taken = key.len() + value.len() + OVERHEAD;
        if inner.bytes - freed + taken > most {
            return Err(Status::InternalFailure);
        }
        inner.bytes = inner.bytes - freed + taken;
        inner.next = inner.next.wrapping_add(1).max(1);
        let next = inner.next;
        inner.values.insert(key.to_vec(), (value.to_vec(), next));
        Ok(())
    }

    /// The number of the queue, which is made where there is none.
    pub(super) fn register(&self, name: &[u8], listener: Listener, most: usize) -> Result<u32, Status> {
        let mut inner = self.lock();
        if let Some(queue) = inner.queues.iter_mut().find(|queue| queue.name == name) {
            queue.listener = Some(listener);
            return Ok(queue.number);
        }
        let taken = name.len() + OVERHEAD;
        if inner.queues.len() == MOST_QUEUES || inner.bytes + taken > most {
            return Err(Status::InternalFailure);
        }
        inner.bytes += taken;
        let number = self.numbers.fetch_add(1, Relaxed).wrapping_add(1);
        let (name, parts, listener) = (name.to_vec(), VecDeque::new(), Some(listener));
        inner.queues.push(Queue { number, name, parts, listener });
        Ok(number)
    }

    pub(super) fn resolve(&self, name: &[u8]) -> Result<u32, Status> {
        let inner = self.lock();
        let mut queues = inner.queues.iter();
        queues.find(|queue| queue.name == name).map(|queue| queue.number).ok_or(Status::NotFound)
    }

    /// Who is to hear of it.
    pub(super) fn enqueue(&self, queue: u32, part: &[u8], most: usize) -> Result<Option<Listener>, Status> {
        let mut inner = self.lock();
        let taken = part.len() + OVERHEAD;
        let has_room = inner.bytes + taken <= most;
        let queue = inner.queue(queue)?;
        if !has_room {
            return Err(Status::InternalFailure);
        }
        queue.parts.push_back(part.to_vec());
        let listener = queue.listener.clone();
        inner.bytes += taken;
        Ok(listener)
    }

    pub(super) fn dequeue(&self, queue: u32) -> Result<Vec<u8>, Status> {
        let mut inner = self.lock();
        let part = inner.queue(queue)?.parts.pop_front().ok_or(Status::Empty)?;
        inner.bytes -= part.len() + OVERHEAD;
        Ok(part)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn queue(&mut self, number: u32) -> Result<&mut Queue, Status> {
        self.queues.iter_mut().find(|queue| queue.number == number).ok_or(Status::NotFound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 1000;

    fn nobody() -> Listener {
        Listener { plugin: Weak::new(), slot: 0, root: 1 }
    }

    #[test]
    fn a_value_is_replaced_only_by_one_who_has_seen_the_last() {
        let shared = Shared::default();
        assert_eq!(shared.value(b"key"), Err(Status::NotFound));
        shared.set(b"key", b"one", 7, MOST).unwrap();
        let (value, cas) = shared.value(b"key").unwrap();
        assert_eq!(value, b"one");
        shared.set(b"key", b"two", cas, MOST).unwrap();
        assert_eq!(shared.set(b"key", b"three", cas, MOST), Err(Status::CasMismatch));
        shared.set(b"key", b"four", 0, MOST).unwrap();
        assert_eq!(shared.value(b"key").unwrap().0, b"four");
    }

    #[test]
    fn there_is_room_for_so_much_and_no_more() {
        let shared = Shared::default();
        let kept = (0..1000_u32).filter(|n| shared.set(&n.to_le_bytes(), &[0; 32], 0, MOST).is_ok()).count();
        assert_eq!(kept, MOST / (4 + 32 + OVERHEAD));
        assert_eq!(shared.register(b"queue", nobody(), MOST), Err(Status::InternalFailure));
        shared.set(&0_u32.to_le_bytes(), &[], 0, MOST).unwrap();
    }

    #[test]
    fn queues_keep_the_order_and_give_room_back() {
        let shared = Shared::default();
        assert_eq!(shared.resolve(b"queue"), Err(Status::NotFound));
        let queue = shared.register(b"queue", nobody(), MOST).unwrap();
        assert_eq!(shared.resolve(b"queue"), Ok(queue));
        for _ in 0..100 {
            shared.enqueue(queue, b"one", MOST).unwrap();
            shared.enqueue(queue, b"two", MOST).unwrap();
            assert_eq!(shared.dequeue(queue), Ok(b"one".to_vec()));
            assert_eq!(shared.dequeue(queue), Ok(b"two".to_vec()));
        }
        assert_eq!(shared.dequeue(queue), Err(Status::Empty));
        assert_eq!(shared.dequeue(queue + 1), Err(Status::NotFound));
        assert_eq!(shared.enqueue(0, b"", MOST).map(|_| ()), Err(Status::NotFound));
        let full = (0..1000).filter(|_| shared.enqueue(queue, b"x", MOST).is_ok()).count();
        assert!(full < MOST / OVERHEAD);
    }
}
