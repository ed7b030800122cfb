use crate::*;

#[test]
fn writes_every_definition() {
    for definition in all() {
        let text = yaml(&definition).unwrap();
        let read: CustomResourceDefinition = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(read, definition);
    }
}
